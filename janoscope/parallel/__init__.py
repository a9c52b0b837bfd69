"""More than one device or machine: tasks here or over Ray, guidance branches in processes of their own, batches split."""

"""From a file to arrays: opened, validated, verified, summarised."""

"""How the bundled models were made: data, recipes, training, export."""

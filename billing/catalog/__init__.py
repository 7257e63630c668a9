"""The catalogue: models, operations, their prices, and who changed them when."""

"""From predictions to numbers: protocols, metrics, statistics."""

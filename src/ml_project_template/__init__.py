"""From a table to a served model, with the same configuration on a laptop and on a cluster."""

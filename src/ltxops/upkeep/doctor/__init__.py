"""`ltxops doctor`: named checks of a provisioned host, each with what was seen and what to do."""

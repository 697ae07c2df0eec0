"""Train the flow networks."""

"""Run data_logger_node: record what is worth learning from."""

"""Fine-tune networks on recordings without labels."""

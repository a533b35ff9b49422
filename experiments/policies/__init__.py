"""What is compared: layer policies, with global rates and optimizers."""

"""What a study trains on: read, cached, divided, augmented."""

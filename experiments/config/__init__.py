"""What a study is made of: fields, presets, and configurations in files."""

"""Run configurations by name: one YAML file each, beside this file."""

"""The only code of the course that is seen inside the sandbox. Standard library only; imports nothing of lab_utils."""

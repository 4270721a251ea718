"""What is done with the folder of a trained run: evaluation, evidence, their tables and figures."""

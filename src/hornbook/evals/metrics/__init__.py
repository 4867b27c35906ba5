"""What an answer is worth, as functions of texts: a file for each way that a field has agreed on."""

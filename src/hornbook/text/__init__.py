"""Text and tokens: tokenizers from every format that models come in, the streaming decoder, chat templates."""

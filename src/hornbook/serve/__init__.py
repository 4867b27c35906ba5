"""The server: one process, a few models, every client that speaks OpenAI's or Ollama's API, and a page."""

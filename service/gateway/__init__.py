"""The gateway: OpenAI's HTTP API in front of SGLang runtimes. Holds no torch and no sglang."""

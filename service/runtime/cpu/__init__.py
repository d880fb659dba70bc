"""SGLang on a machine without a GPU: the ops it looks up, their build, and the process that starts it."""

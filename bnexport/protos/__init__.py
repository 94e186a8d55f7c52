"""TensorFlow's protocol buffers, as far as bnexport reads them; `tensorflow.proto` says how `tensorflow_pb2` is generated from it."""

"""Where numbers go beside `metrics.jsonl`: TensorBoard always, W&B and MLflow where the run names them."""

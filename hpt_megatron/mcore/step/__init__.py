"""One optimizer step: schedule, loss, gradients, optimizer."""

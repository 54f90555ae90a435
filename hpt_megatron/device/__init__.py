"""What changes on a host without an accelerator, so that real megatron-core trains there on gloo.

Decision: patched functions, not a TorchFunctionMode. A mode belongs to one thread: autograd's backward, a
recomputation inside it and every other thread do not see it. A replaced function is seen by the whole process.

Invariants:
    1. On a host where `torch.cuda.is_available()` nothing is changed, neither here nor by the entry point.
    2. `torch.cuda.is_available()` stays False and `torch.cuda.device_count()` stays 0, so that every other library
       still decides for the CPU.
    3. A second `enable()` changes nothing. There is no way back: a process trains on one kind of device.
    4. Everything that is changed is in the three lists below, and a test compares them with the tables in code.

Switched on in one place, `hpt_megatron.mcore.initialize`; the entry point below acts by itself. Example:

    from hpt_megatron.device.cuda import enable
    enable()
    torch.empty(4, device="cuda").device     # device(type='cpu')

When torch is imported, in every process, if torch is a build without an accelerator (`autoload.py`):

    torchvision                     its operators `nms` and `qnms` are declared when its library is a CUDA build, which
                                    cannot load; without them `import torchvision` raises
    torchaudio                      a CUDA build is hidden: it raises on import, and libraries take it for usable
    torchcodec                      the same

When `hpt_megatron.device.cuda.enable()` is called (`cuda.py`):

    torch.empty                     device "cuda" (a name, a torch.device, an index) means CPU; pin_memory is dropped,
                                    because pinning needs an accelerator. So for every factory function:
    torch.zeros                     the same
    torch.ones                      the same
    torch.full                      the same
    torch.tensor                    the same
    torch.arange                    the same
    torch.empty_like                the same
    torch.Tensor.new_empty          the same
    torch.Tensor.to                 a move to "cuda" stays on the CPU (and copies nothing)
    torch.nn.Module.to              the same, for an index, which torch itself refuses before it asks a tensor
    torch.Tensor.cuda               the tensor itself
    torch.Tensor.pin_memory         the tensor itself
    torch.Tensor.type               answers "torch.cuda.FloatTensor": megatron's optimizers compare with these names
    torch.cuda.current_device       0; the factory functions take the index
    torch.cuda.set_device           nothing to choose
    torch.cuda.synchronize          nothing to wait for
    torch.cuda.current_stream       an inert stream: work on the CPU is done when the call returns
    torch.cuda.default_stream       the same
    torch.cuda.stream               a context that does nothing
    torch.cuda.Stream               the class of inert streams
    torch.cuda.Event                the class of inert events
    torch.cuda.manual_seed          seeds torch's CPU generator, which is the one that dropout draws from here
    torch.cuda.get_rng_state        reads that generator
    torch.cuda.set_rng_state        writes it
    torch.cuda.random.get_rng_state the name under which megatron's random tracker reads it

When `hpt_megatron.mcore.patches.apply()` is called (`mcore/patches.py`), which `mcore.initialize` does:

    megatron.core.tensor_parallel.random._set_cuda_rng_state
                                    writes the CPU generator; the original queues the write until CUDA starts, for ever
    megatron.core.optimizer.Adam    our Adam, where neither Transformer Engine nor apex is there (on a GPU host too)
    megatron.core.optimizer.USING_PYTORCH_OPTIMIZER
                                    False with it: our Adam has the contract of the fused ones
    megatron.core.optimizer.distrib_optimizer.Adam
                                    the same class, for the check of the type
    megatron.core.optimizer.distrib_optimizer.HAVE_APEX_OR_TE
                                    True with it: `step` is kept per parameter group
    megatron.core.optimizer.distrib_optimizer.USING_APEX_OPTIMIZER
                                    True with it, for the same reason
    megatron.core.dist_checkpointing.strategies.torch.FileSystemWriterAsync
                                    a writer that writes in this process; the original forks (on a GPU host too)
    megatron.core.dist_checkpointing.strategies.filesystem_async._results_queue
                                    a plain queue for it; the original is kept by a process of its own
    megatron.core.dist_checkpointing.strategies.torch._get_filesystem_reader
                                    a reader that unpickles nothing but a checkpoint's own classes (on a GPU host too)
    megatron.core.dist_checkpointing.strategies.torch.MCoreLoadPlanner
                                    reads objects with `weights_only`; the original runs what they say
    logging:megatron.core.tensor_parallel.random
                                    drops the warning that a draw moved the CPU generator, which here it has to
"""

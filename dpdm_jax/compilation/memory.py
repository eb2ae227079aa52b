"""The memory that a compiled program takes."""

import jax


def program_memory(compiled: jax.stages.Compiled) -> dict[str, int]:
    """Bytes on one device, by the compiler's analysis.

    Args:
        compiled: the program.

    Returns:
        What arguments, outputs, temporary values and code take, how much of the outputs
        takes the place of arguments, and as "peak" all that is there at once.
    """
    stats = compiled.memory_analysis()
    assert stats is not None  # compilers of all platforms tell
    new_outputs = stats.output_size_in_bytes - stats.alias_size_in_bytes
    parts = {
        "arguments": stats.argument_size_in_bytes,
        "outputs": stats.output_size_in_bytes,
        "outputs_in_arguments": stats.alias_size_in_bytes,
        "temporaries": stats.temp_size_in_bytes,
        "code": stats.generated_code_size_in_bytes,
    }
    # All at once: the compilers' own peaks leave out temporaries (CPU) or gaps (TPU).
    working = stats.temp_size_in_bytes + new_outputs
    return parts | {"peak": parts["arguments"] + parts["code"] + working}

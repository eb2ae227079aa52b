import jax
import jax.numpy as jnp
import pytest

from dpdm_jax.compilation import hlo

pytestmark = pytest.mark.optimized  # their programs

# Shortened from what libtpu prints: S(1) is memory on the chip.
_TPU = """HloModule jit_f, is_scheduled=true, entry_computation_layout={(f32[8]{0})->f32[]}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%a, %b)
}

%body (p: (s32[], f32[4,128])) -> (s32[], f32[4,128]) {
  %p = (s32[]{:T(128)S(1)}, f32[4,128]{1,0:T(4,128)}) parameter(0)
  %i = s32[]{:T(128)S(1)} get-tuple-element(%p), index=0
  %x = f32[4,128]{1,0:T(4,128)} get-tuple-element(%p), index=1
  %y = f32[4,128]{1,0:T(4,128)} fusion(%x), kind=kLoop, calls=%tanh
  ROOT %out = (s32[]{:T(128)S(1)}, f32[4,128]{1,0:T(4,128)}) tuple(%i, %y)
}

%condition (p.1: (s32[], f32[4,128])) -> pred[] {
  %n = s32[]{:T(128)S(1)} constant(5)
  %p.1 = (s32[]{:T(128)S(1)}, f32[4,128]{1,0:T(4,128)}) parameter(0)
  %i.1 = s32[]{:T(128)S(1)} get-tuple-element(%p.1), index=0
  ROOT %lt = pred[]{:T(512)S(1)} compare(%i.1, %n), direction=LT
}

ENTRY %main (w: f32[3,100], v: (s32[], f32[4,128])) -> f32[3,100] {
  %w = f32[3,100]{1,0:T(8,128)} parameter(0)
  %v = (s32[]{:T(128)S(1)}, f32[4,128]{1,0:T(4,128)}) parameter(1)
  %start = (f32[3,100]{1,0:T(8,128)S(1)}, f32[3,100]{1,0:T(8,128)}, u32[]) copy-start(%w)
  %near = f32[3,100]{1,0:T(8,128)S(1)} copy-done(%start)
  %loop = (s32[], f32[4,128]) while(%v), condition=%condition, body=%body
  %parts = (f32[3,100]{1,0:T(8,128)S(1)}, bf16[7]{0:T(128)S(1)}) fusion(%near), calls=%f
  %one = f32[3,100]{1,0:T(8,128)S(1)} get-tuple-element(%parts), index=0
  %two = bf16[7]{0:T(128)S(1)} get-tuple-element(%parts), index=1
  %all = (f32[3,100]{1,0:T(8,128)S(1)}, bf16[7]{0:T(128)S(1)}) all-reduce(%one, %two), to_apply=%add
  %more = f32[6,100]{1,0:T(8,128)S(1)} all-gather-start(%one), dimensions={0}
  %done = f32[6,100]{1,0:T(8,128)S(1)} all-gather-done(%more)
  ROOT %result = f32[3,100]{1,0:T(8,128)} fusion(%near), kind=kLoop, calls=%tanh
}
"""  # noqa: E501


def test_collectives():
    assert hlo.Program(_TPU).collectives() == {
        "all-reduce": {"count": 1, "bytes": 4 * 300 + 2 * 7},
        "all-gather": {"count": 1, "bytes": 4 * 300},
    }


def test_main_memory_bytes():
    tile = 4 * 8 * 128
    # In: the copy reads one padded tile. Out: the result writes one. The loop reads and
    # writes its array in each of five rounds.
    assert hlo.Program(_TPU).main_memory_bytes() == 2 * tile + 5 * 2 * 4 * 4 * 128


def test_a_loop_moves_the_slices_that_it_takes_and_makes():
    @jax.jit
    def f(x):
        return jax.lax.map(jnp.sin, x)

    rows, width = 1000, 64
    compiled = f.lower(jax.ShapeDtypeStruct((rows, width), jnp.float32)).compile()
    whole = 4 * rows * width
    moved = hlo.Program(compiled.as_text()).main_memory_bytes()
    # Each row is read and written; the counter and a copy of the whole, at most, too.
    assert 2 * whole <= moved <= 5 * whole


def test_loops():
    assert hlo.Program(_TPU).num_loops() == 1


@pytest.mark.parametrize(
    ("shape", "size", "padded"),
    [
        ("f32[5,3]{0,1:T(8,128)}", 60, 4 * 128 * 8),
        ("f32[2,5,3]{2,1,0:T(8,128)}", 120, 4 * 2 * 8 * 128),
        ("bf16[130]{0:T(128)}", 260, 2 * 256),
        ("pred[]", 1, 1),
        ("f8e4m3fn[3]{0}", 3, 3),
        ("token[]", 0, 0),
    ],
)
def test_array_sizes(shape, size, padded):
    (array,) = hlo._arrays(shape)
    assert (array.bytes, array.padded_bytes) == (size, padded)


def test_a_compiled_program_of_this_machine():
    def f(x):
        return jax.lax.fori_loop(0, 7, lambda _, y: jnp.sin(y @ y), x)

    side = 64
    compiled = jax.jit(f).lower(jnp.zeros((side, side))).compile()
    program = hlo.Program(compiled.as_text())
    assert program.num_loops() == 1
    assert program.collectives() == {}
    once = 4 * side * side
    assert program.main_memory_bytes() >= 7 * 3 * once  # read twice, written once

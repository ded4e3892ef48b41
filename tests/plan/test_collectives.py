from o1jax.plan.collectives import Traffic, collectives

HLO = """HloModule step, is_scheduled=true

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%all-reduce-scatter.1 (input: f32[8,4]) -> f32[2,4] {
  %input = f32[8,4]{1,0} parameter(0)
  %all-reduce.3 = f32[8,4]{1,0} all-reduce(%input), replica_groups={{0,1,2,3}}, to_apply=%add
  ROOT %slice = f32[2,4]{1,0} dynamic-slice(%all-reduce.3)
}

%condition (arg: (s32[], bf16[2,8])) -> pred[] {
  %arg = (s32[], bf16[2,8]{1,0}) parameter(0)
  %limit = s32[] constant(28)
  %at = s32[] get-tuple-element(%arg), index=0
  ROOT %less = pred[] compare(%at, %limit), direction=LT
}

%body (arg.1: (s32[], bf16[2,8])) -> (s32[], bf16[2,8]) {
  %arg.1 = (s32[], bf16[2,8]{1,0}) parameter(0)
  %gathered = bf16[8,8]{1,0:T(8,128)(2,1)} all-gather(%y.1), replica_groups=[2,4]<=[8], dimensions={0}
  %begun = (bf16[2,8]{1,0}, bf16[2,8]{1,0}) collective-permute-start(%y.1), source_target_pairs={{0,1}}
  %done = bf16[2,8]{1,0} collective-permute-done(%begun)
  %scattered = f32[2,4]{1,0} fusion(%z), kind=kCustom, calls=%all-reduce-scatter.1
  ROOT %next = (s32[], bf16[2,8]{1,0}) tuple(%at.1, %done)
}

ENTRY %main (p: bf16[2,8]) -> f32[16] {
  %p = bf16[2,8]{1,0} parameter(0)
  %loop = (s32[], bf16[2,8]{1,0}) while(%start), condition=%condition, body=%body
  ROOT %mean = f32[16]{0} all-reduce(%q), replica_groups=mesh['a'=2,'b'=4] {'b'}, to_apply=%add
}
"""


def test_a_loop_s_collectives_count_as_often_as_it_turns():
    found = collectives(HLO, 8)
    assert found["all-gather"] == Traffic(28, 28 * 8 * 8 * 2 * 3 / 4)  # of 4 devices each sends 3/4
    assert found["collective-permute"] == Traffic(28, 28 * 2 * 8 * 2)
    assert found["all-reduce"] == Traffic(1, 2 * 16 * 4 * 3 / 4)


def test_an_all_reduce_that_is_scattered_counts_as_a_reduce_scatter():
    assert collectives(HLO, 8)["reduce-scatter"] == Traffic(28, 28 * 8 * 4 * 4 * 3 / 4)


def test_a_program_on_one_device_has_none():
    assert (
        collectives("ENTRY %main (p: f32[2]) -> f32[2] {\n  ROOT %p = f32[2]{0} parameter(0)\n}\n", 1) == {}
    )


GPU_HLO = """HloModule step, is_scheduled=true

%body (arg: (s32[], f32[4])) -> (s32[], f32[4]) {
  %gathered = (bf16[1,8]{1,0}, bf16[8,8]{1,0}) all-gather-start(%a), dimensions={0}
  %done = bf16[8,8]{1,0} all-gather-done(%gathered)
  %scattered = ((f32[8,4], f32[8]), (f32[1,4], f32[1])) reduce-scatter-start(%b, %c), to_apply=%add
  %summed = (f32[16]{0}, f32[]) all-reduce-start(%d, %e), to_apply=%add
}

ENTRY %main (p: f32[4]) -> f32[4] {
  %loop = (s32[], f32[4]{0}) while(%start), body=%body, backend_config={"known_trip_count":{"n":"28"}}
}
"""


def test_what_a_begun_collective_returns_comes_after_its_operands():
    found = collectives(GPU_HLO, 8)
    assert found["all-gather"] == Traffic(28, 28 * 8 * 8 * 2 * 7 / 8)
    assert found["reduce-scatter"] == Traffic(28, 28 * (4 + 1) * 4 * 7)
    assert found["all-reduce"] == Traffic(28, 28 * 2 * 16 * 4 * 7 / 8)

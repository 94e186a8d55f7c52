"""Chains of layers that the shapes allow and the names speak against."""

import numpy as np
import pytest
from test_scopes import forged, kernel, names

from bnexport.conversion import to_program
from bnexport.errors import ScopeError
from bnexport.options import Options


def layers(**named):
    arrays = {}
    for name, (ins, outs) in named.items():
        arrays |= {f"{name}/kernel": kernel(ins, outs, len(arrays)), f"{name}/bias": np.ones(outs, np.float32)}
    return arrays


@pytest.mark.parametrize(
    ("first", "second"),
    [("policy", "value"), ("out_policy", "out_value"), ("mu", "log_sigma"), ("value", "advantage"), ("z_mean", "z_log_var"), ("out_a", "out_b")],
)
def test_two_heads_are_no_chain(tmp_path, first, second):
    prefix = forged(tmp_path, layers(fc=(6, 4), **{first: (4, 4), second: (4, 1)}))
    with pytest.raises(ScopeError, match=f"{first} and {second} are called like two ends of one network.*--order fc,{first}$"):
        to_program(prefix)
    assert names(to_program(prefix, Options(order=["fc", first, second]))) == ["fc", first, second]


@pytest.mark.parametrize("called", [("G_W1", "G_W2", "D_W1", "D_W2"), ("net/G/h0", "net/G/h1", "net/D/h0", "net/D/h1")])
def test_a_generator_and_a_discriminator_by_their_letters_are_no_chain(tmp_path, called):
    sizes = [(5, 4), (4, 6), (6, 3), (3, 1)]
    prefix = forged(tmp_path, {name: kernel(*shape) for name, shape in zip(called, sizes, strict=True)})
    with pytest.raises(ScopeError, match=f"a generator and a discriminator: .*--order {called[0]},{called[1]} or {called[2]},{called[3]}$"):
        to_program(prefix)
    assert names(to_program(prefix, Options(order=called[:2]))) == list(called[:2])
    assert names(to_program(prefix, Options(order=called))) == list(called)


@pytest.mark.parametrize("scopes", [("q", "target_q"), ("net_1", "net_2"), ("a/m0", "a/m1", "a/m2")])
def test_scopes_with_the_same_layers_may_be_copies(tmp_path, scopes):
    one = {"dense": (4, 4), "dense_1": (4, 4)}
    prefix = forged(tmp_path, layers(**{f"{scope}/{name}": shape for scope in scopes for name, shape in one.items()}))
    with pytest.raises(
        ScopeError, match=f"hold layers of the same names and shapes: .*--order {scopes[0]} names one.*--order {','.join(scopes)} puts"
    ):
        to_program(prefix)
    assert names(to_program(prefix, Options(order=[scopes[1]]))) == [f"{scopes[1]}/dense", f"{scopes[1]}/dense_1"]
    assert len(to_program(prefix, Options(order=scopes)).layers) == 2 * len(scopes)


def test_blocks_of_the_same_layers_between_others_are_a_chain(tmp_path):
    arrays = layers(**{"stem": (6, 4), **{f"block{i}/{name}": (4, 4) for i in (1, 2) for name in ("fc1", "fc2")}, "out": (4, 2)})
    assert names(to_program(forged(tmp_path, arrays))) == ["stem", "block1/fc1", "block1/fc2", "block2/fc1", "block2/fc2", "out"]


def test_one_depthwise_kernel_is_a_network(tmp_path):
    assert (
        len(to_program(forged(tmp_path, {"dw/depthwise_kernel": np.ones((3, 3, 4, 1), np.float32), "dw/bias": np.ones(4, np.float32)})).layers) == 1
    )


def test_of_several_networks_one_that_is_a_chain_is_the_example(tmp_path):
    """An actor of two ends, and a critic."""
    actor = layers(**{"actor/fc": (4, 8), "actor/mu": (8, 2), "actor/sigma": (8, 2)})
    prefix = forged(tmp_path, actor | layers(**{"critic/fc": (4, 8), "critic/v": (8, 1)}))
    with pytest.raises(ScopeError) as error:
        to_program(prefix)
    assert "\n  actor: actor/fc, actor/mu, actor/sigma (no single chain)\n  critic: critic/fc → critic/v\n" in str(error.value)
    assert "name one with --order, for example --order critic, or" in str(error.value)


def test_heads_are_told_before_the_orders_that_they_could_have(tmp_path):
    with pytest.raises(ScopeError, match=r"mu and sigma are called like two ends.*--order enc,mu,dec$"):
        to_program(forged(tmp_path, layers(enc=(6, 4), mu=(4, 4), sigma=(4, 4), dec=(4, 6))))


@pytest.mark.parametrize("called", [("out/dense", "out/dense_1"), ("out1", "out2"), ("mean_net", "logits"), ("decoder_a", "decoder_b")])
def test_names_that_are_no_heads_make_a_chain(tmp_path, called):
    first, second = called
    assert names(to_program(forged(tmp_path, layers(fc=(6, 5), **{first: (5, 4), second: (4, 1)})))) == ["fc", first, second]


@pytest.mark.parametrize("called", [("final_hidden", "final_logits"), ("final_fc", "logits"), ("pre_final", "final"), ("last_hidden", "out")])
def test_ends_that_cannot_take_the_same_tensor_make_a_chain(tmp_path, called):
    first, second = called
    assert names(to_program(forged(tmp_path, layers(fc=(6, 5), **{first: (5, 4), second: (4, 3)})))) == ["fc", first, second]


def test_copies_are_named_in_the_order_of_the_chain(tmp_path):
    prefix = forged(tmp_path, layers(**{f"{scope}/{name}": (4, 4) for scope in ("encoder", "decoder") for name in ("fc1", "fc2")}))
    with pytest.raises(ScopeError, match="--order encoder,decoder puts one behind the other"):
        to_program(prefix)


def test_matrices_with_a_batch_norm_of_their_width_or_an_outputs_name_are_layers(tmp_path):
    norms = {f"bn{i}/{role}": np.ones(width, np.float32) for i, width in ((1, 5), (2, 4)) for role in ("beta", "moving_mean", "moving_variance")}
    with_norms = {"l1": kernel(6, 5), "l2": kernel(5, 4)} | norms | layers(out=(4, 2))
    assert names(to_program(forged(tmp_path, with_norms))) == ["l1", "l2", "out"]
    biases = {"b_h0": np.ones(7, np.float32), "b_h1": np.ones(4, np.float32)}
    assert names(to_program(forged(tmp_path, {"w_h0": kernel(5, 7), "w_h1": kernel(7, 4), "logits": kernel(4, 6)} | biases)))[-1] == "logits"


def test_a_matrix_that_is_a_kernel_by_shape_alone_is_no_layer_unless_the_user_says_so(tmp_path):
    """The centres of a centre loss fit behind the last layer."""
    prefix = forged(tmp_path, layers(fc1=(8, 6), fc2=(6, 4)) | {"centers": kernel(4, 2)})
    with pytest.raises(
        ScopeError, match=r"centers \[4, 2\] may be a layer's kernel by shape alone, .*--order fc1,fc2,centers; if not, --order fc1,fc2$"
    ):
        to_program(prefix)
    assert names(to_program(prefix, Options(order=["fc1", "fc2"]))) == ["fc1", "fc2"]
    assert names(to_program(prefix, Options(order=["fc1", "fc2", "centers"]))) == ["fc1", "fc2", "centers"]


def test_kernels_whose_order_is_the_other_way_round_may_be_transposed(tmp_path):
    prefix = forged(tmp_path, {"W1": kernel(6, 8), "W2": kernel(3, 6)})
    with pytest.raises(ScopeError, match=r"allow the order W2 \(3 → 6\), W1 \(6 → 8\) alone, and the names say the other way round.*--order W2,W1;"):
        to_program(prefix)
    assert names(to_program(prefix, Options(order=["W2", "W1"]))) == ["W2", "W1"]


@pytest.mark.parametrize("shape", [lambda n: (n, 1), lambda n: (n,)])
def test_biases_as_long_as_kernels_have_rows_tell_that_they_are_transposed(tmp_path, shape):
    """W1 [25, 784] and b1 [25, 1], with examples as columns, are of a well-known course."""
    arrays = {"W1": kernel(6, 8), "b1": np.ones(shape(6), np.float32), "W2": kernel(3, 6), "b2": np.ones(shape(3), np.float32)}
    with pytest.raises(ScopeError, match=r"each is as long as a kernel has rows, as if kernels were stored as \(out, in\): W1 \(6 → 8\), W2"):
        to_program(forged(tmp_path, arrays))

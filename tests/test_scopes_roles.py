import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnexport.checkpoint import TensorInfo
from bnexport.scopes import assign_roles
from bnexport.scopes.names import natural_key, precedes, tokens


def info(name, *shape, dtype="float32"):
    return TensorInfo(name, shape, np.dtype(dtype), 4)


def roles(*infos):
    return {r.name: r.role for r in assign_roles(infos)}


def layers(*infos):
    return {r.name: r.layer for r in assign_roles(infos)}


@pytest.mark.parametrize(
    ("name", "shape", "role"),
    [
        ("W1", (4, 3), "kernel"),
        ("W_conv1", (5, 5, 1, 8), "kernel"),
        ("t_W1_a", (4, 3), "kernel"),
        ("weightsOut", (4, 3), "kernel"),
        ("fully_weights_01", (4, 3), "kernel"),
        ("conv1/weights", (1, 3, 1, 64), "kernel"),
        ("dw/depthwise_kernel", (3, 3, 8, 1), "kernel"),
        ("stem", (3, 3, 1, 6), "kernel"),
        ("Variable_4", (4, 3), "kernel"),
        ("Variable_5", (3,), "bias"),
        ("b_conv1", (8,), "bias"),
        ("B1_c", (450,), "bias"),
        ("biasesOut", (1,), "bias"),
        ("bn/beta", (3,), "beta"),
        ("conv1_bn/conv1_bn_offset", (256,), "beta"),
        ("conv1_bn/conv1_bn_scale", (256,), "gamma"),
        ("batch_norm/gamma", (1, 1, 1, 3), "gamma"),
        ("pop_mean_7", (400,), "moving mean"),
        ("norm/pop_var", (400,), "moving variance"),
        ("global_variance1", (400,), "moving variance"),
        ("bn/moving_mean", (3,), "moving mean"),
        ("BatchNorm/moving_variance", (3,), "moving variance"),
        ("bn/mean/EMA", (3,), "moving mean"),
        ("bn/variance/EMA", (3,), "moving variance"),
        ("bn/bn_1/moments/Squeeze/ExponentialMovingAverage", (3,), "moving mean"),
        ("bn/bn_1/moments/Squeeze_1/ExponentialMovingAverage", (3,), "moving variance"),
        ("bn_1/bn_1/moments/moments_1/mean/ExponentialMovingAverage", (3,), "moving mean"),
        ("bn_1/bn_1/moments/moments_1/variance/ExponentialMovingAverage", (3,), "moving variance"),
        ("bn/moments/normalize/mean/ExponentialMovingAverage", (3,), "moving mean"),
        ("bn/moments/normalize/variance/ExponentialMovingAverage", (3,), "moving variance"),
        ("moments_2/Squeeze_1/ExponentialMovingAverage", (3,), "moving variance"),
        ("bn/bn/bn/moments/Squeeze/ExponentialMovingAverage/biased", (3,), "zero-debias"),
        ("bn/bn/bn/moments/Squeeze/ExponentialMovingAverage/local_step", (), "zero-debias"),
        ("loss/ExponentialMovingAverage", (), "metric"),
        ("W1/Adam", (4, 3), "optimiser slot"),
        ("W1/Adam_1", (4, 3), "optimiser slot"),
        ("optimizer/W1/RMSProp_1", (4, 3), "optimiser slot"),
        ("dnn/h/kernel/t_0/ProximalAdagrad", (4, 3), "optimiser slot"),
        ("W1/Ftrl_1", (4, 3), "optimiser slot"),
        ("b1", (1, 8), "bias"),
        ("bn/bn_1/moments/Squeeze/bn_averages", (3,), "moving mean"),
        ("beta1_power_1", (), "optimiser slot"),
        ("optimizer/iter/.ATTRIBUTES/VARIABLE_VALUE", (), "optimiser slot"),
        ("optimizer/_variables/3/.ATTRIBUTES/VARIABLE_VALUE", (4, 3), "optimiser slot"),
        ("training/Adam/Variable_3", (4, 3), "optimiser slot"),
        ("save_counter/.ATTRIBUTES/VARIABLE_VALUE", (), "counter"),
        ("Training_step", (), "counter"),
        ("keras_api/metrics/0/total/.ATTRIBUTES/VARIABLE_VALUE", (), "metric"),
        ("cross_entropy/Mean_average", (), "metric"),
        ("lstm_cell/kernel", (8, 16), "recurrent"),
        ("embed0", (100, 5), "embedding"),
        ("pfc/bias0", (9, 9, 2), "unknown"),
        ("alpha", (3,), "unknown"),
        ("temperature", (), "unknown"),
    ],
)
def test_a_name_and_a_shape_say_a_role(name, shape, role):
    assert roles(info(name, *shape)) == {name: role}


def test_types_say_a_role_too():
    assert roles(info("is_training", dtype="bool"), info("Variable", dtype="int32")) == {"is_training": "flag", "Variable": "counter"}
    assert roles(info("_CHECKPOINTABLE_OBJECT_GRAPH", dtype="object")) == {"_CHECKPOINTABLE_OBJECT_GRAPH": "object graph"}


def test_what_was_made_for_a_variable_belongs_to_it():
    key = "model/dense/kernel/.ATTRIBUTES/VARIABLE_VALUE"
    infos = [
        info("layer/W", 4, 3),
        info("layer/W/Momentum", 4, 3),
        info("train/layer/W/Adam", 4, 3),
        info("layer/W/ExponentialMovingAverage", 4, 3),
        info("bn/moving_mean", 3),
        info("bn/moving_mean/biased", 3),
        info("bn/moving_mean/ExponentialMovingAverage", 3),
        info(key, 4, 3),
        info("model/dense/kernel/.OPTIMIZER_SLOT/optimizer/m/.ATTRIBUTES/VARIABLE_VALUE", 4, 3),
        info("lost/Adam", 4, 3),
        info("layer/W/d_optim_1", 4, 3),
        info("train/layer/W/d_optim", 4, 3),
        info("layer/W/ExponentialMovingAverage_1", 4, 3),
        info("other/layer/W/part", 4, 2),
    ]
    owners = {r.name: (r.role, r.belongs_to) for r in assign_roles(infos)}
    assert owners["layer/W/Momentum"] == ("optimiser slot", "layer/W")
    assert owners["train/layer/W/Adam"] == ("optimiser slot", "layer/W")
    assert owners["layer/W/ExponentialMovingAverage"] == ("weight average", "layer/W")
    assert owners["bn/moving_mean/biased"] == ("zero-debias", "bn/moving_mean")
    assert owners["bn/moving_mean/ExponentialMovingAverage"] == ("weight average", "bn/moving_mean")
    assert owners["model/dense/kernel/.OPTIMIZER_SLOT/optimizer/m/.ATTRIBUTES/VARIABLE_VALUE"] == ("optimiser slot", key)
    assert owners["lost/Adam"] == ("optimiser slot", None)
    assert owners["layer/W/d_optim_1"] == owners["train/layer/W/d_optim"] == ("optimiser slot", "layer/W")
    assert owners["layer/W/ExponentialMovingAverage_1"] == ("weight average", "layer/W")
    assert owners["other/layer/W/part"] == ("kernel", None)


def test_an_optimiser_of_keras_3_lists_what_it_trains():
    value = "/.ATTRIBUTES/VARIABLE_VALUE"
    names = {
        "optimizer/_trainable_variables/0": ("net/dense/kernel", (4, 3)),
        "optimizer/_trainable_variables/1": ("net/bn/gamma", (3,)),
        "net/_operations/2/moving_mean": ("net/bn/moving_mean", (3,)),
        "opt/_variables/2": ("adam/net_dense_kernel_momentum", (4, 3)),
        "opt/_iterations": ("adam/iteration", ()),
    }
    infos = [info(key + value, *shape) for key, (_, shape) in names.items()]
    found = {r.name.removesuffix(value): r for r in assign_roles(infos, {key + value: name for key, (name, _) in names.items()})}
    assert [found[key].role for key in names][:4] == ["kernel", "gamma", "moving mean", "optimiser slot"]
    assert found["optimizer/_trainable_variables/1"].layer == found["net/_operations/2/moving_mean"].layer == "net/bn"
    without_names = {r.name.removesuffix(value): r.role for r in assign_roles(infos)}
    assert without_names["optimizer/_trainable_variables/1"] == "unknown"


AVERAGE = "ExponentialMovingAverage"


@pytest.mark.parametrize(
    ("mean", "norm"),
    [
        (f"bn/bn/moments/Squeeze/{AVERAGE}", "bn"),
        (f"bn/bn_1/moments/Squeeze/{AVERAGE}", "bn_1"),
        (f"bn/bn_2/moments/Squeeze/{AVERAGE}", "bn_2"),
        (f"bn_2/bn_2/moments/moments_1/mean/{AVERAGE}", "bn_2"),
        (f"s/bn/s/bn/moments/Squeeze/{AVERAGE}", "s/bn"),
        (f"s/bn/s_1/bn/moments/Squeeze/{AVERAGE}", "s/bn"),
        (f"s/bn/s/bn/cond_2/moments/Squeeze/{AVERAGE}", "s/bn"),
    ],
)
def test_averaged_moments_find_their_batch_norm(mean, norm):
    infos = [info(f"{scope}/{role}", 3) for scope in ("bn", "bn_1", "bn_2", "s/bn") for role in ("beta", "gamma")]
    assert layers(*infos, info(mean, 3))[mean] == norm


def test_averaged_moments_go_to_the_scope_that_they_have_no_more_than():
    """`a/bn` has neither beta nor gamma, and ends in `bn` as well."""
    means = [f"a/bn/a/bn/moments/Squeeze/{AVERAGE}", f"bn/bn/moments/Squeeze/{AVERAGE}"]
    found = layers(info("bn/beta", 3), *(info(mean, 3) for mean in means))
    assert [found[mean] for mean in means] == ["a/bn", "bn"]


def test_batch_norms_without_scopes_are_told_apart_by_their_numbers():
    infos = [info(name + suffix, 3) for name in ("beta", "scale", "pop_mean", "pop_var") for suffix in ("", "_1", "_2")]
    found = layers(*infos)
    assert {name for name, layer in found.items() if layer == "batch_norm_1"} == {"beta_1", "scale_1", "pop_mean_1", "pop_var_1"}
    assert len(set(found.values())) == 3


def test_biases_find_their_kernels():
    infos = [info("W1_a", 4, 3), info("B1_a", 3), info("W1_c", 4, 3), info("B1_c", 3), info("fc/weights", 3, 2), info("fc/biases", 2)]
    found = layers(*infos)
    assert found["B1_a"] == found["W1_a"] == "W1_a"
    assert found["B1_c"] == "W1_c"
    assert found["fc/biases"] == found["fc/weights"] == "fc"


def test_a_bias_of_another_width_is_nobodys():
    assert layers(info("W1", 4, 3), info("b1", 5))["b1"] is None


def test_unnamed_biases_go_by_the_order_of_creation():
    pairs = [info("Variable", 4, 3), info("Variable_1", 3), info("Variable_2", 3, 3), info("Variable_3", 3)]
    assert layers(*pairs)["Variable_3"] == "Variable_2"
    mixed = [info("net/W1", 4, 3), info("net/W2", 3, 2), info("net/Variable", 3), info("net/Variable_1", 2)]
    assert layers(*mixed)["net/Variable_1"] == "net/W2"


def test_unnamed_biases_may_all_come_behind_the_kernels():
    names = ["Variable", *(f"Variable_{i}" for i in range(1, 6))]
    infos = [info(name, *shape) for name, shape in zip(names, [(4, 3), (3, 3), (3, 3), (3,), (3,), (3,)], strict=True)]
    found = layers(*infos)
    assert [found[name] for name in names[3:]] == names[:3]


def test_unnamed_rows_behind_kernels_are_biases():
    infos = [info("Variable", 1, 10), info("Variable_1", 1, 10), info("Variable_2", 10, 1), info("Variable_3", 1, 1)]
    found = layers(*infos)
    assert (found["Variable_1"], found["Variable_3"]) == ("Variable", "Variable_2")
    assert roles(info("Variable", 4, 3), info("Variable_1", 1, 4))["Variable_1"] == "kernel"


def test_kernels_of_other_names_have_the_words_of_their_biases():
    infos = [info(f"{part}_{v}{i}", *shape) for part in ("encoder", "decoder") for i in (1, 2) for v, shape in (("h", (4, 4)), ("b", (4,)))]
    found = layers(*infos, info("Theta3", 4, 2), info("bias3", 2))
    assert found["decoder_b2"] == "decoder_h2"
    assert found["bias3"] == "Theta3"


def test_biases_that_tensorflow_counted_apart_from_kernels():
    kernels = [info("w", 4, 4), info("w_1", 4, 4), info("w_2", 4, 2)]
    assert layers(*kernels, info("b", 2))["b"] == "w_2"
    assert layers(*kernels, info("b", 4), info("b_1", 2))["b"] is None
    assert layers(*kernels, info("b", 4), info("b_1", 4), info("b_2", 2))["b_1"] == "w_1"


def test_people_count_past_nine():
    names = ["fc10/W", "fc2/W", "fc1/W", "fc/W"]
    assert sorted(names, key=lambda n: natural_key(tuple(n.split("/")))) == ["fc/W", "fc1/W", "fc2/W", "fc10/W"]
    assert precedes(("fc2", "W"), ("fc10", "W"))
    assert precedes(("dense",), ("dense_1",))
    assert precedes(("dense_1",), ("dense",)) is False
    assert precedes(("conv1",), ("fc2",)) is None
    assert precedes(("fc1",), ("fc1",)) is None


def test_words_are_found_in_any_spelling():
    assert tokens("weightsOut") == tokens("weights_out") == ("weights", "out")
    assert tokens("W1_a") == ("w", "1", "a")
    assert tokens("BatchNorm_1") == ("batch", "norm", "1")


_PART = st.sampled_from(
    ["bn", "bn_1", "beta", "gamma", "W", "Variable_2", "moments", "Squeeze", AVERAGE, "Adam", "cond", "x", "1", "", "biased", "mean", "EMA"]
)


@given(
    st.lists(
        st.tuples(st.lists(_PART, min_size=1, max_size=5), st.sampled_from([(), (3,), (3, 3), (1, 3), (0,), (2, 2, 3, 3), (1,) * 5])), max_size=12
    )
)
def test_no_names_are_too_odd(drawn):
    infos = list({"/".join(parts): info("/".join(parts), *shape) for parts, shape in drawn}.values())
    found = assign_roles(infos)
    assert [r.name for r in found] == sorted(i.name for i in infos)
    random.Random(0).shuffle(infos)
    assert assign_roles(infos) == found

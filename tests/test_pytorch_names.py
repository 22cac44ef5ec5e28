"""What is called otherwise in PyTorch is told where its name is not found, and what is told exists."""

from __future__ import annotations

import re

import numpy as np
import pytest

import minigrad as mg
from minigrad import data, functional, init, nn, optim, pytorch_names

OWNERS = {
    "tensor": (mg.ones(2), pytorch_names.TENSOR),
    "module": (nn.Sequential(), pytorch_names.MODULE),
    "minigrad": (mg, pytorch_names.TENSOR | pytorch_names.PACKAGE),
    "functional": (functional, pytorch_names.FUNCTIONAL),
    "nn": (nn, pytorch_names.NN),
    "optim": (optim, pytorch_names.OPTIM),
    "data": (data, pytorch_names.DATA),
}
MEANT = {
    "t": mg.ones(2, 2), "u": mg.ones(2, 2), "p": mg.Parameter(np.ones(1)), "mg": mg, "minigrad": mg, "np": np,
    "nn": nn, "F": functional, "optim": optim, "data": data, "model": nn.Sequential(), "init": init,
    "optimizer": optim.SGD([mg.Parameter(np.ones(1))]),
}  # fmt: skip


@pytest.mark.parametrize("owner, names", OWNERS.values(), ids=OWNERS)
def test_a_name_of_pytorchs_is_not_there_and_the_error_says_what_is(owner, names):
    for name, here in names.items():
        if owner is mg and hasattr(mg, name):  # a Tensor's method alone has another name
            continue
        says = f"no attribute '{name}'; for PyTorch's {name} write {here}"
        with pytest.raises(AttributeError, match=re.escape(says)):
            getattr(owner, name)


@pytest.mark.parametrize("names", [names for _, names in OWNERS.values()], ids=OWNERS)
def test_what_is_to_be_written_instead_exists(names):
    for here in names.values():
        for root, *path in (chain.split(".") for chain in re.findall(r"[A-Za-z_]\w*(?:\.[a-zA-Z_]\w*)+", here)):
            found = MEANT.get(root)
            assert found is not None or root == "self", here
            for name in path if root != "self" else ():
                found = getattr(found, name)


def test_other_names_fail_as_ever():
    with pytest.raises(AttributeError, match=r"^'Tensor' object has no attribute 'nothing'$"):
        mg.ones(2).nothing  # noqa: B018
    with pytest.raises(AttributeError, match=r"^module 'minigrad' has no attribute 'nothing'$"):
        mg.nothing  # noqa: B018
    assert not hasattr(mg.ones(2), "cpu") and getattr(nn.ReLU(), "nothing", 1) == 1
    assert "reshape" in dir(mg.ones(2)) and "view" not in dir(mg.ones(2))


def test_an_error_within_a_property_of_the_users_is_not_hidden():
    class Model(nn.Module):
        @property
        def depth(self):
            return self.layres

    with pytest.raises(AttributeError, match=r"^'Model' object has no attribute 'layres'$"):
        Model().depth  # noqa: B018


def test_the_names_are_pytorchs():
    torch = pytest.importorskip("torch")
    for owner, names in (
        (torch.Tensor, pytorch_names.TENSOR.keys() - {"values", "grad_fn", "device"}),
        (torch.nn.Module, pytorch_names.MODULE.keys() - {"append", "save"}),
        (torch, pytorch_names.PACKAGE),
        (torch.nn.functional, pytorch_names.FUNCTIONAL),
        (torch.nn, pytorch_names.NN),
        (torch.optim.lr_scheduler, pytorch_names.OPTIM.keys() - {"lr_scheduler", "clip_grad_norm_"}),
        (torch.utils.data, pytorch_names.DATA.keys() - {"MNIST", "FashionMNIST"}),
    ):
        assert not [name for name in names if not hasattr(owner, name)]

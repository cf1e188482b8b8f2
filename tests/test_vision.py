"""torchvision and timm import whatever build of torch stands beside them."""

import subprocess
import sys


def _run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_timm_imports_and_the_hook_is_put_back():
    code = """
import torch
before = torch.library.register_fake
from filtersurgeon.checkpoint.vision import import_timm, import_torchvision, torchvision_state
timm = import_timm()
assert torch.library.register_fake is before
assert import_torchvision().__name__ == "torchvision"
import torchvision.transforms
assert "resnet18" in timm.list_models("resnet18")
print(torchvision_state())
"""
    assert _run(code) in {"complete", "without compiled operators"}


def test_fake_kernels_of_others_still_register_while_patched():
    code = """
import torch
from filtersurgeon.checkpoint import vision

@torch.library.custom_op("fsurgeon_test::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return x * 2

with vision._fake_kernels_skipped():
    torch.library.register_fake("torchvision::no_such_operator")(lambda x: x)
    torch.library.register_fake("fsurgeon_test::twice")(torch.empty_like)
print(tuple(torch.ops.fsurgeon_test.twice(torch.empty(3, device="meta")).shape))
"""
    assert _run(code) == "(3,)"


def test_importing_the_module_does_not_import_torch():
    code = "import sys, filtersurgeon.checkpoint.vision; print('torch' in sys.modules)"
    assert _run(code) == "False"

"""Rules of rewrite.py: the functions of PyTorch, for any arguments, computed by the operators that stand for them."""

import itertools

import pytest

torch = pytest.importorskip("torch")

from mobconv.backends.tflite import rewrite  # noqa: E402

F = torch.nn.functional


def chosen(seed, count):
    """Random arguments: lists of one number for each axis."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda low, high, size: torch.randint(low, high + 1, (size,), generator=generator).tolist()  # noqa: E731
    for _ in range(count):
        yield draw, generator


def test_poolings():
    for draw, generator in chosen(0, 400):
        kernel, stride = draw(1, 4, 2), draw(1, 3, 2)
        padding = [draw(0, k // 2, 1)[0] for k in kernel]
        x = torch.randn(1, 2, *draw(7, 11, 2), generator=generator)
        ceil, counted = (bool(value) for value in draw(0, 1, 2))
        divisor = [None, 3][draw(0, 1, 1)[0]]
        expected = F.avg_pool2d(x, kernel, stride, padding, ceil, counted, divisor)
        torch.testing.assert_close(
            rewrite.avg_pool2d(x, kernel, stride, padding, ceil, counted, divisor), expected, atol=1e-5, rtol=1e-5
        )
        dilation = draw(1, 2, 2)
        expected = F.max_pool2d(x, kernel, stride, padding, dilation, ceil)
        assert torch.equal(rewrite.max_pool2d(x, kernel, stride, padding, dilation, ceil), expected)
        size = draw(1, 5, 2)
        assert torch.equal(rewrite.adaptive_max_pool2d(x, size)[0], F.adaptive_max_pool2d(x, size))


@pytest.mark.parametrize(
    ("rank", "name"), [(1, "conv_transpose1d.default"), (2, "conv_transpose2d.input"), (3, "conv_transpose3d.input")]
)
def test_transposed_convolutions(rank, name):
    rule = rewrite._refused()[f"aten.{name}"]
    for draw, generator in chosen(rank, 150):
        kernel, stride, dilation, padding = draw(1, 4, rank), draw(1, 3, rank), draw(1, 2, rank), draw(0, 1, rank)
        extra = [draw(0, max(s, d) - 1, 1)[0] for s, d in zip(stride, dilation, strict=True)]
        groups = draw(1, 2, 1)[0]
        x = torch.randn(1, 4, *draw(4, 6, rank), generator=generator)
        weight, bias = torch.randn(4, 3, *kernel, generator=generator), torch.randn(3 * groups, generator=generator)
        expected = getattr(F, f"conv_transpose{rank}d")(x, weight, bias, stride, padding, extra, groups, dilation)
        result = rule(x, weight, bias, stride, padding, extra, groups, dilation)
        torch.testing.assert_close(result, expected, atol=1e-4, rtol=1e-4)


def test_fold_of_windows_that_touch_overlap_or_leave_gaps():
    for kernel, stride, dilation, padding in itertools.product(
        ([2, 2], [3, 1]), ([2, 2], [1, 2]), ([1, 1], [1, 2]), ([0, 0], [1, 0])
    ):
        size = [8, 7]
        axes = zip(size, kernel, stride, dilation, padding, strict=True)
        windows = [(s + 2 * p - d * (k - 1) - 1) // t + 1 for s, k, t, d, p in axes]
        columns = torch.randn(2, 3 * kernel[0] * kernel[1], windows[0] * windows[1])
        expected = F.fold(columns, size, kernel, dilation, padding, stride)
        torch.testing.assert_close(rewrite.col2im(columns, size, kernel, dilation, padding, stride), expected)


@pytest.mark.parametrize("kernel", [1, 2, 3, 4])
def test_same_padding_of_even_kernels(kernel):
    x, weight = torch.randn(1, 4, 9), torch.randn(6, 2, kernel)
    for dilation in (1, 2, 3):
        expected = F.conv1d(x, weight, None, 1, "same", dilation, 2)
        torch.testing.assert_close(rewrite.conv1d_same(x, weight, None, [1], "same", [dilation], 2), expected)


def test_linear_of_many_axes():
    x, weight, bias = torch.randn(2, 3, 4, 5), torch.randn(7, 5), torch.randn(7)
    torch.testing.assert_close(rewrite.linear(x, weight, bias), F.linear(x, weight, bias))

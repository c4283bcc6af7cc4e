import torch

from ctxext.encodings.none import temperature


def test_times_the_queries_is_times_the_scores():
    q, k = torch.randn(2, 4, 8).double()
    beta = temperature(0.3, 8.0)
    assert torch.allclose((beta * q) @ k.T, beta * (q @ k.T))
    assert beta > temperature(0.3, 4.0) > temperature(0.3, 1.0) == 1.0 == temperature(0.0, 8.0)


def test_attention_without_mask_and_position_does_not_know_the_order():
    x = torch.randn(6, 8).double()
    order = torch.randperm(6)

    def attend(x):
        return (x @ x.T).softmax(-1) @ x

    assert torch.allclose(attend(x)[order], attend(x[order]))
    mask = torch.ones(6, 6).tril().bool()

    def attend_causally(x):
        return (x @ x.T).masked_fill(~mask, -torch.inf).softmax(-1) @ x

    assert not torch.allclose(attend_causally(x)[order], attend_causally(x[order]))

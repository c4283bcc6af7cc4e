"""Run `ctxext`, and `python -m ctxext`, as `accelerate launch -m ctxext finetune ...` does."""

from ctxext.cli._ended import end_on_signals


def main() -> None:
    """Run the command line, deaf to no signal while it is imported."""
    end_on_signals()
    from ctxext.cli.main import main as run  # which takes its time

    run()


if __name__ == "__main__":
    main()

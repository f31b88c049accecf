import re

from overnet.export.engine.messages import BuildMessages, one_line


def test_the_first_error_counts_and_the_missing_driver_does_not():
    with BuildMessages(None, "") as messages:
        messages.add("warning", "slow")
        messages.add("error", "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda (cudaError 35: old)")
        assert re.fullmatch(r"Error Code 1: Cuda \(cudaError 35: old\)", messages.error)
        messages.add("error", "IBuilder::build: Error Code 4: Usage (Wrong.\nIn validate at /_src/network.cpp:40)")
        messages.add("error", "Error Code 2: what follows")
    assert messages.error == "IBuilder::build: Error Code 4: Usage (Wrong. )"
    assert not messages.is_out_of_workspace


def test_tensorrt_s_own_words_for_too_little_workspace():
    with BuildMessages(None, "") as messages:
        messages.add(
            "error", "Error Code 10: Internal Error (Could not find any implementation due to insufficient workspace.)"
        )
        messages.add("info", "Total Activation Memory: 8127007744")
    assert messages.is_out_of_workspace and messages.activation_memory_bytes == 8_127_007_744


def test_messages_are_cut_and_printable():
    assert one_line("a\x1b[31m\n\n  b " + "x" * 1000).startswith("a?[31m b xxx")
    assert len(one_line("x" * 1000)) == 500

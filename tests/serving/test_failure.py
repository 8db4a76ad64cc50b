"""The cause is found in a log, not its echo."""

from lab_utils.serving.failure import explain, last_error

ECHO = """\
(EngineCore pid=9) ERROR 11-22 09:57:55 [core.py:1300] Traceback (most recent call last):
(EngineCore pid=9) ERROR 11-22 09:57:55 [core.py:1300] ValueError: To serve at least one request with the model's \
max seq len (512), (0.0 GiB KV cache is needed, which is larger than the available KV cache memory (0.0 GiB).
(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""


def test_the_cause_is_told_before_its_echo():
    assert last_error(ECHO).startswith("ValueError: To serve at least one request")
    said = explain(ECHO)
    assert "KV 缓存放不下" in said and "max_model_len" in said and "Engine core" not in said


def test_an_unknown_flag_is_named():
    said = explain("usage: launch.py [-h]\nlaunch.py: error: unrecognized arguments: --foo 3\n")
    assert "不认识参数 --foo 3" in said


def test_a_length_beyond_the_model_is_named():
    line = (
        "  Value error, User-specified max_model_len (100000) is greater than the derived max_model_len "
        "(max_position_embeddings=512.0 or model_max_length=None in model's config.json)."
    )
    assert "max_model_len=100000 超过了模型的上限 512" in explain(line)


def test_an_echo_alone_and_a_log_without_errors_are_shown_as_they_are():
    assert "Engine core initialization failed" in explain("RuntimeError: Engine core initialization failed.")
    assert explain("one\ntwo\n").endswith("one\ntwo")
    assert "日志里的原因：KeyError: 'x'" in explain("(Worker pid=3) KeyError: 'x'\n")

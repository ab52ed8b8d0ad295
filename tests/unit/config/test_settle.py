"""What holds between sections once the plugins' kinds are known."""

from __future__ import annotations

from datetime import timedelta
from typing import get_args

import pytest
from pydantic import field_validator

from kipuka.api import CABackendKind, Section
from kipuka.config import load
from kipuka.config.sections import Operations
from kipuka.http.est import METHODS
from tests.unit.config.conftest import CA, GOOD, INSTALLED, KINDS, Smithy, problems, settled, written

ANCHORS = '[tls.client_auth]\ntrust_anchors = "a.pem"\n'
BADGE = "[badge]\n"
OTP = "[otp]\n"


def used(tmp_path, text):
    return dict(load(written(tmp_path, text), {}).uses())


def test_a_plugin_is_used_when_its_section_or_its_name_is(tmp_path):
    """RULES K2."""
    text = GOOD + ANCHORS + OTP + '[[audit.sink]]\ntype = "jotter"\n'
    assert used(tmp_path, text) == {
        "mtls": "section [tls.client_auth]",
        "otp": "section [otp]",
        "smithy": "backend of ca[one]",
        "jotter": "type of audit.sink[jotter]",
    }


def test_a_section_that_is_switched_off_uses_nothing(tmp_path):
    """RULES K4."""
    assert set(used(tmp_path, GOOD + "[otp]\nenabled = false\n")) == {"smithy"}


def test_a_disabled_plugin_is_not_used_whatever_else_is_written(tmp_path):
    text = GOOD + OTP + '[plugins]\ndisabled = ["otp", "smithy"]\n'
    assert used(tmp_path, text) == {}


def test_a_section_nobody_claims_is_given_a_neighbour(tmp_path):
    assert used(tmp_path, GOOD + "[servr]\n")["servr"] == "section [servr] (did you mean [server]?)"


def test_the_default_order_ranks_the_three_methods(tmp_path):
    """RULES K4."""
    settings = settled(tmp_path, GOOD + OTP + ANCHORS)
    assert settings.auth == ("mtls", "otp")
    assert settings.labels[None].auth == ("mtls", "otp")


def test_no_section_means_no_client_certificates(tmp_path):
    """RULES A5."""
    assert "mtls" not in settled(tmp_path, GOOD).authenticators


def test_anchors_without_a_mode_are_optional(tmp_path):
    """RULES A5."""
    assert settled(tmp_path, GOOD + ANCHORS).authenticators["mtls"].mode == "optional"


def test_a_mode_without_anchors_is_refused(tmp_path):
    """RULES A5: anchors are never implied."""
    found = problems(tmp_path, GOOD + '[tls.client_auth]\nmode = "required"\n')
    assert "trust_anchors" in found["tls.client_auth"].problem


def test_another_method_needs_the_order_to_be_written(tmp_path):
    """RULES K4."""
    found = problems(tmp_path, GOOD + BADGE + ANCHORS)
    assert found["auth.order"].remedy == 'write order = ["mtls", "badge"] in the order you want'
    text = GOOD + BADGE + ANCHORS + '[auth]\norder = ["badge", "mtls"]\n'
    assert settled(tmp_path, text).auth == ("badge", "mtls")


@pytest.mark.parametrize(
    ("order", "key", "problem"),
    [
        pytest.param('["mtls"]', "auth.order", "badge is on, but has no place in it", id="one is missing"),
        pytest.param('["mtls", "badge", "mtls"]', "auth.order[2]", "mtls stands there twice", id="twice"),
        pytest.param(
            '["mtls", "badge", "bagde"]', "auth.order[2]", "no plugin provides the method bagde", id="mistyped"
        ),
        pytest.param(
            '["mtls", "badge", "gssapi"]', "auth.order[2]", "no plugin provides the method gssapi", id="nobody's"
        ),
        pytest.param(
            '["mtls", "badge", "smithy"]', "auth.order[2]", "no plugin provides the method smithy", id="a backend"
        ),
    ],
)
def test_an_explicit_order_names_all_that_are_on_and_nothing_else(tmp_path, order, key, problem):
    """RULES K4."""
    found = problems(tmp_path, GOOD + BADGE + ANCHORS + f"[auth]\norder = {order}\n")
    assert found[key].problem == problem


def test_an_order_may_name_a_method_that_is_off(tmp_path):
    text = GOOD + ANCHORS + '[auth]\norder = ["otp", "mtls"]\n'
    assert settled(tmp_path, text).auth == ("mtls",)


def test_enabled_is_the_hosts_where_the_plugin_does_not_know_it(tmp_path):
    """RULES K4."""
    text = GOOD + '[badge]\nenabled = true\n[auth]\norder = ["badge"]\n'
    assert settled(tmp_path, text).auth == ("badge",)


def test_a_sole_ca_is_the_default_one(tmp_path):
    assert settled(tmp_path, GOOD).labels[None].ca == "one"


def test_with_two_cas_the_default_must_be_written(tmp_path):
    second = CA.replace("one", "two")
    assert problems(tmp_path, GOOD + second)["est.default_ca"].remedy == "write default_ca = one of: one, two"
    assert settled(tmp_path, GOOD + second + '[est]\ndefault_ca = "two"\n').labels[None].ca == "two"


def test_labels_have_every_default_filled_in(tmp_path):
    """RULES K5, B5."""
    text = f"""{GOOD}{CA.replace("one", "two")}{ANCHORS}{OTP}
    [[profile]]
    name = "vpn"
    [est]
    default_ca = "one"
    [[est.label]]
    name = "plain"
    [[est.label]]
    name = "vpn"
    ca = "two"
    profile = "vpn"
    auth = ["otp"]
    client_anchors = "vpn.pem"
    """
    labels = settled(tmp_path, text).labels
    assert set(labels) == {None, "plain", "vpn"}
    plain, vpn = labels["plain"], labels["vpn"]
    assert (plain.ca, plain.profile.name, plain.auth, plain.client_anchors) == ("one", "default", ("mtls", "otp"), None)
    assert (vpn.ca, vpn.profile.name, vpn.auth, vpn.client_anchors) == ("two", "vpn", ("otp",), tmp_path / "vpn.pem")


def test_a_label_has_the_replay_window_of_est_unless_it_has_its_own(tmp_path):
    """RULES D4: off by default; a label may switch it on or off."""
    label = '[[est.label]]\nname = "as-est"\n[[est.label]]\nname = "own"\nreplay_window = {}\n'
    off = settled(tmp_path, GOOD + label.format(600)).labels
    assert {name: found.replay_window.total_seconds() for name, found in off.items()} == {
        None: 0,
        "as-est": 0,
        "own": 600,
    }
    on = settled(tmp_path, GOOD + "[est]\nreplay_window = 60.5\n" + label.format(0)).labels
    assert {name: found.replay_window.total_seconds() for name, found in on.items()} == {
        None: 60.5,
        "as-est": 60.5,
        "own": 0,
    }


@pytest.mark.parametrize("value", ["-1", "2592001", '"ten minutes"', "true"])
def test_a_replay_window_is_a_number_of_seconds_up_to_thirty_days(tmp_path, value):
    text = f'[est]\nreplay_window = {value}\n[[est.label]]\nname = "x"\nreplay_window = {value}\n'
    assert set(problems(tmp_path, GOOD + text)) == {"est.replay_window", "est.label[x].replay_window"}


@pytest.mark.parametrize(
    ("line", "key", "remedy"),
    [
        ('ca = "oen"', "ca", "did you mean one?"),
        ('profile = "defautl"', "profile", "did you mean default?"),
        ('auth = ["opt"]', "auth[0]", "did you mean otp?"),
        ('auth = ["badge"]', "auth[0]", "take it out, or write the section [badge]"),
        ("auth = []", "auth", "name at least one, or take auth out"),
        ('client_anchors = "a.pem"', "client_anchors", "write [tls.client_auth], or take client_anchors out"),
    ],
)
def test_a_label_names_what_is_there(tmp_path, line, key, remedy):
    found = problems(tmp_path, GOOD + OTP + f'[[est.label]]\nname = "x"\n{line}\n')
    assert {name: problem.remedy for name, problem in found.items()} == {f"est.label[x].{key}": remedy}


def test_what_the_path_without_a_label_says_of_clients_holds_for_labels_that_say_nothing(tmp_path):
    """RULES B5, K5."""
    text = (
        GOOD
        + OTP
        + ANCHORS
        + BADGE
        + """
    [auth]
    order = ["mtls", "otp", "badge"]
    [est]
    require = [["otp", "mtls"]]
    operations = ["cacerts", "simpleenroll"]
    foreign_clients = ["CN=*,O=Maker"]
    [[est.label]]
    name = "as-est"
    [[est.label]]
    name = "open"
    require = []
    operations = ["simpleenroll"]
    foreign_clients = []
    [[est.label]]
    name = "badges"
    auth = ["badge"]
    [[est.label]]
    name = "either"
    auth = ["mtls", "badge"]
    require = [["mtls"], ["badge"]]
    """
    )
    labels = settled(tmp_path, text).labels
    for name in (None, "as-est"):
        label = labels[name]
        assert (label.auth, label.require) == (("mtls", "otp"), (("otp", "mtls"),))
        assert label.operations == {"cacerts", "simpleenroll"}
        assert len(label.foreign_clients) == 1
    assert (labels["open"].auth, labels["open"].require) == (("mtls", "otp", "badge"), ())
    assert (labels["open"].operations, labels["open"].foreign_clients) == ({"simpleenroll"}, ())
    assert (labels["badges"].auth, labels["badges"].require) == (("badge",), ())
    assert (labels["either"].auth, labels["either"].require) == (("mtls", "badge"), (("mtls",), ("badge",)))


def test_without_a_word_every_method_and_operation_is_on(tmp_path):
    label = settled(tmp_path, GOOD + OTP + ANCHORS).labels[None]
    assert (label.auth, label.require) == (("mtls", "otp"), ())
    assert (label.operations, label.foreign_clients) == (None, ())


@pytest.mark.parametrize("place", ["[est]\n", '[[est.label]]\nname = "x"\n'])
@pytest.mark.parametrize(
    ("lines", "key", "said"),
    [
        ("require = [[]]", "require[0]", "everybody could enrol"),
        ('require = [["mtls", "mtls"]]', "require[0]", "twice"),
        ('require = [["mtls", "opt"]]', "require[0][1]", "opt is not on"),
        ('require = [["otp", "badge"]]', "require[0]", "one Authorization field, so nobody can present otp and badge"),
        ('require = [["mtls"], ["mtls", "otp"]]', "require[1]", "another set too"),
        ('require = [["mtls", "otp"], ["otp", "mtls"]]', "require[0]", "another set too"),
        ('auth = ["mtls"]\nrequire = [["mtls", "otp"]]', "require[0]", "otp is not in auth"),
        ('auth = ["mtls", "otp", "badge"]\nrequire = [["mtls", "otp"]]', "auth[2]", "no set of require has badge"),
        ("auth = []", "auth", "nobody can enrol"),
        ("operations = []", "operations", ""),
        ('operations = ["enrol"]', "operations[0]", ""),
        ('foreign_clients = ["O"]', "foreign_clients[0]", "no pattern"),
    ],
)
def test_what_cannot_be_met_or_lets_in_everybody_is_refused(tmp_path, place, lines, key, said):
    """RULES C1: a set of methods is one that a request can have."""
    text = GOOD + OTP + ANCHORS + BADGE + f'[auth]\norder = ["mtls", "otp", "badge"]\n{place}{lines}\n'
    found = problems(tmp_path, text)
    where = f"est.{key}" if place.startswith("[est]") else f"est.label[x].{key}"
    assert where in found
    assert said in found[where].problem


def test_every_operation_that_is_served_can_be_named():
    """K1: neither is one switched off that nobody serves, nor is one served that cannot be switched off."""
    assert set(get_args(get_args(Operations)[0])) == {operation.value for operation in METHODS}


def test_a_set_that_loses_a_method_is_met_by_nobody(tmp_path):
    """Switching a plugin off never makes less enough."""
    text = GOOD + OTP + ANCHORS + '[est]\nrequire = [["mtls", "otp"]]\n[plugins]\ndisabled = ["otp"]\n'
    label = settled(tmp_path, text).labels[None]
    assert (label.auth, label.require) == ((), ())


RA = f'registration_authorities = ["CN=*,OU=RA", "sha256:{"0a:" * 31}FF"]\n'
LABEL_RA = f'[[est.label]]\nname = "a"\nprofile = "ra"\n{RA}'


def test_registration_authorities_are_those_of_their_own_label(tmp_path):
    """RULES F4: no label has those of another, nor those of the path without a label."""
    labels = settled(tmp_path, GOOD + ANCHORS + f'[est]\n{RA}[[est.label]]\nname = "a"\n').labels
    assert [pattern.is_anything for pattern in labels[None].registration_authorities] == [False, False]
    assert labels["a"].registration_authorities == ()


@pytest.mark.parametrize(
    ("text", "key", "problem"),
    [
        (f"[est]\n{RA}", "est.registration_authorities", "client certificates are not taken here"),
        (
            f'{ANCHORS}[otp]\n[[est.label]]\nname = "a"\nauth = ["otp"]\n{RA}',
            "est.label[a].registration_authorities",
            "client certificates are not taken here",
        ),
        (
            f'{ANCHORS}[[profile]]\nname = "ra"\nextended_key_usage = ["clientAuth", "cmcRA"]\n{LABEL_RA}',
            "est.label[a].registration_authorities",
            "the profile ra has the usage cmcRA: a registration authority could make others here",
        ),
        (f'{ANCHORS}[est]\nregistration_authorities = ["sha256:00"]', "est.registration_authorities[0]", None),
        (f'{ANCHORS}[est]\nregistration_authorities = ["OU"]', "est.registration_authorities[0]", None),
    ],
)
def test_registration_authorities_who_could_be_nobody_or_make_others_are_refused(tmp_path, text, key, problem):
    """RULES F4."""
    found = problems(tmp_path, GOOD + text)
    assert found.keys() == {key}
    assert problem is None or found[key].problem == problem


def test_validity_of_a_ca_is_the_hosts_key(tmp_path):
    assert settled(tmp_path, GOOD).ca("one").validity == timedelta(days=365)
    assert settled(tmp_path, GOOD + "validity_days = 7\n").ca("one").validity == timedelta(days=7)


def test_a_backend_that_has_validity_days_itself_is_told_it(tmp_path):
    class Own(Smithy):
        validity_days: int = 1

    kind = CABackendKind(name="smithy", config=Own, open=KINDS["ca_backends"]["smithy"].open)
    item = settled(tmp_path, GOOD + "validity_days = 7\n", ca_backends={"smithy": kind}).ca("one")
    assert (item.validity, item.settings.validity_days) == (timedelta(days=7), 7)


def test_an_item_keeps_the_keys_of_its_kind_and_is_refused_others(tmp_path):
    """RULES K2."""
    found = problems(tmp_path, GOOD + 'crt = "x"\n[[audit.sink]]\ntype = "jotter"\npaht = "x"\n')
    assert found["ca[one].crt"].remedy == "did you mean cert?"
    assert found["audit.sink[jotter].paht"].remedy == "did you mean path?"


def test_a_mistyped_key_of_the_host_in_an_item_is_recognised(tmp_path):
    assert (
        problems(tmp_path, GOOD + "valdity_days = 3\n")["ca[one].valdity_days"].remedy == "did you mean validity_days?"
    )


@pytest.mark.parametrize(
    ("text", "key", "problem"),
    [
        (CA.replace('"smithy"', '"badge"'), "ca[one].backend", "badge is an authentication method, not a CA backend"),
        (CA + "[smithy]\n", "smithy", "smithy is a CA backend, not an authentication method"),
        (CA + "[jotter]\n", "jotter", "jotter is an audit sink, not an authentication method"),
        (
            CA + '[[audit.sink]]\ntype = "smithy"\n',
            "audit.sink[smithy].type",
            "smithy is a CA backend, not an audit sink",
        ),
    ],
)
def test_a_plugin_in_the_wrong_place_is_sent_to_the_right_one(tmp_path, text, key, problem):
    assert problems(tmp_path, GOOD.replace(CA, "") + text)[key].problem == problem


def test_what_a_plugin_fault_says_already_is_not_said_again(tmp_path):
    """A broken or missing plugin has its own fault; its section's keys and place in the order are nobody's mistake."""
    without = {name: kind for name, kind in KINDS["authenticators"].items() if name != "badge"}
    text = GOOD + BADGE + OTP + "[nobody]\n" + '[auth]\norder = ["badge", "otp"]\n'
    settings = settled(tmp_path, text, authenticators=without, broken={"badge"})
    assert settings.auth == ("otp",)


def test_a_disabled_plugins_section_and_items_are_off(tmp_path):
    text = GOOD + OTP + ANCHORS + '[[audit.sink]]\ntype = "jotter"\n[plugins]\ndisabled = ["otp", "jotter"]\n'
    settings = settled(tmp_path, text + '[auth]\norder = ["otp", "mtls"]\n[[est.label]]\nname = "x"\nauth = ["otp"]\n')
    assert settings.auth == ("mtls",)
    assert settings.sinks == ()
    assert settings.labels["x"].auth == ()
    assert settings.disabled == {"otp", "jotter"}


def test_a_label_cannot_use_a_ca_whose_backend_is_disabled(tmp_path):
    text = GOOD + '[plugins]\ndisabled = ["smithy"]\n'
    assert problems(tmp_path, text)["ca"].problem == "every CA's backend is disabled"
    found = problems(tmp_path, text + '[est]\ndefault_ca = "one"\n')
    assert found["est.default_ca"].problem == "the backend of the CA one is disabled"


def test_sinks_are_told_apart_by_id(tmp_path):
    text = GOOD + '[[audit.sink]]\ntype = "jotter"\n[[audit.sink]]\ntype = "jotter"\nid = "copy"\npath = "x"\n'
    first, second = settled(tmp_path, text).sinks
    assert (first.id, second.id, second.settings.path) == ("jotter", "copy", tmp_path / "x")


class Explosive(Section):
    """A model with a validator that does what validators may not."""

    cert: str

    @field_validator("cert")
    @classmethod
    def _explode(cls, value: str) -> str:
        raise RuntimeError(value)


def test_a_model_that_raises_what_it_may_not_is_its_plugins_fault(tmp_path):
    kind = CABackendKind(name="smithy", config=Explosive, open=KINDS["ca_backends"]["smithy"].open)
    told = []
    settled(tmp_path, GOOD, ca_backends={"smithy": kind}, failed=lambda name, problem: told.append((name, problem)))
    assert told == [("smithy", "its model raised RuntimeError on ca[one]")]
    found = problems(tmp_path, GOOD, ca_backends={"smithy": kind})
    assert found["ca[one]"].problem == "the plugin smithy cannot read it: its model raised RuntimeError on ca[one]"


def test_a_configuration_without_a_ca_is_refused(tmp_path):
    assert problems(tmp_path, GOOD.replace(CA, ""))["ca"].problem == "it is missing"


def test_all_names_of_the_fixture_are_installed():
    assert {"mtls", "otp", "badge", "smithy", "jotter"} == INSTALLED

"""Card numbers: parsed, checked, fingerprinted, masked and hidden here; a PAN never leaves this module.

What leaves it is a fingerprint (keyed hash over the whole PAN, PCI DSS 4.0.1 clause 3.5.1.1), the BIN and the
last four digits (clause 3.4.1), and the leading digits that a BIN look-up needs. The key's id is part of the
fingerprint, so that stored ones say which key made them.

A fingerprint is written with the letters `a` to `p`, one for four bits: a run of digits that could pass for a
card number cannot occur in it, which hexadecimal or base32 would only make unlikely.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import logging
import os
import re
import secrets
import stat
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NewType, NoReturn

from .diagnostics import ConfigurationError, InvalidCard

CardFingerprint = NewType("CardFingerprint", str)

CARD_KEY_VARIABLE: Final = "FRAUDENGINE_CARD_KEY"
FINGERPRINT: Final = re.compile(r"fp_[0-9a-f]{6}_[a-p]{32}")
MIN_KEY_BYTES: Final = 32

_HEX_TO_LETTERS: Final = str.maketrans("0123456789abcdef", "abcdefghijklmnop")
_MAKE_KEY: Final = 'python3 -c "import secrets; print(secrets.token_hex(32))"'


def is_fingerprint(text: str) -> bool:
    return FINGERPRINT.fullmatch(text) is not None


# --- numbers: check digit and scheme ------------------------------------------------------------------------

_DOUBLED: Final = str.maketrans("0123456789", "0246813579")  # twice the digit, its own digits added


def luhn_ok(digits: str) -> bool:
    """True when the last of these ASCII digits is the check digit of ISO/IEC 7812-1 annex B."""
    return (sum(map(int, digits[::-2])) + sum(map(int, digits[-2::-2].translate(_DOUBLED)))) % 10 == 0


# Scheme -> (first and last leading digits of its ranges, lengths of its numbers). An earlier row wins.
_SCHEMES: Final[tuple[tuple[str, tuple[tuple[str, str], ...], range | tuple[int, ...]], ...]] = (
    ("visa", (("4", "4"),), (13, 16, 19)),
    ("mastercard", (("51", "55"), ("2221", "2720")), (16,)),
    ("amex", (("34", "34"), ("37", "37")), (15,)),
    ("diners", (("30", "30"), ("36", "36"), ("38", "39")), range(14, 20)),
    ("discover", (("6011", "6011"), ("644", "649"), ("65", "65")), range(16, 20)),
    ("jcb", (("3528", "3589"),), range(16, 20)),
    ("unionpay", (("62", "62"), ("81", "81")), range(16, 20)),
    ("maestro", (("50", "50"), ("56", "69")), range(13, 20)),
)


def _tabulate_schemes() -> list[str | None]:
    table: list[str | None] = [None] * 10_000
    for name, ranges, _ in reversed(_SCHEMES):
        for first, last in ranges:
            low, high = int(first.ljust(4, "0")), int(last.ljust(4, "9"))
            table[low : high + 1] = [name] * (high + 1 - low)
    return table


_SCHEME_BY_FOUR: Final = _tabulate_schemes()
_LENGTHS: Final[dict[str, frozenset[int]]] = {name: frozenset(lengths) for name, _, lengths in _SCHEMES}


def scheme_of(digits: str) -> str | None:
    """The scheme that owns these leading digits (four or more of a PAN or BIN), or None when none does.

    A national scheme on a co-branded card cannot be told from its digits.
    """
    if len(digits) < 4 or not (digits.isascii() and digits.isdigit()):
        return None
    return _SCHEME_BY_FOUR[int(digits[:4])]


def _mask(digits: str) -> str:
    return f"{digits[:6]}{'*' * (len(digits) - 10)}{digits[-4:]}"


# --- keys ---------------------------------------------------------------------------------------------------


class CardKey:
    """The secret of card fingerprints. Neither `repr`, `str`, pickle nor JSON shows it.

    `id` is six hexadecimal digits derived from the secret; it tells keys apart and reveals nothing. `former` is
    the key before while two are live: new fingerprints are made with this one, cards are sought under both.
    """

    __slots__ = ("_inner", "_outer", "_secret", "former", "id")

    def __init__(self, secret: bytes, former: CardKey | None = None) -> None:
        if len(secret) < MIN_KEY_BYTES:
            raise ConfigurationError(f"a card key has at least {MIN_KEY_BYTES} bytes, not {len(secret)}")
        self._secret = secret
        self.former = former
        self.id = hashlib.sha256(b"fraudengine key id" + secret).hexdigest()[:6]
        # HMAC (RFC 2104) with the two hashes of the padded key made once: two thirds of the time of `hmac.digest`.
        block = (secret if len(secret) <= 64 else hashlib.sha256(secret).digest()).ljust(64, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block))

    def __repr__(self) -> str:
        return f"CardKey(id={self.id})"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a card key is never pickled or copied")

    def write_secret(self) -> str:
        """The secret in hexadecimal, for the key file alone."""
        return self._secret.hex()

    def _hash(self, message: str) -> str:
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(message.encode())
        outer.update(inner.digest())
        return outer.hexdigest().translate(_HEX_TO_LETTERS)


@dataclass(frozen=True, slots=True)
class LoadedCardKey:
    """A card key, and whether a development key was just made for it, which the caller warns about."""

    key: CardKey
    created: bool = False


def load_card_key(
    environ: Mapping[str, str], key_file: Path | None, *, create_development_key: bool
) -> LoadedCardKey:
    """The card key from the environment, else from the file, else a new one written to the file.

    Raises ConfigurationError, which says what to do, when a key is too short or unreadable, when the file may
    be read by others, and when there is no key and none may be created.
    """
    text = environ.get(CARD_KEY_VARIABLE)
    if text is not None:
        return LoadedCardKey(_read_key(text, CARD_KEY_VARIABLE))
    if key_file is not None and os.path.lexists(key_file):
        return LoadedCardKey(_read_key_file(key_file))
    if key_file is not None and create_development_key:
        created = _create_key_file(key_file)
        return LoadedCardKey(_read_key_file(key_file), created)
    wanted = f" or write it to {key_file} with mode 0600" if key_file is not None else ""
    raise ConfigurationError(f"there is no card key: set {CARD_KEY_VARIABLE}{wanted}; make one with: {_MAKE_KEY}")


def _read_key(text: str, origin: str) -> CardKey:
    """The key in the text; of two, with a space, comma or line end between, the second is the one before."""
    texts = text.replace(",", " ").split()
    if len(texts) < 2 or min(map(len, texts)) < 43:  # 32 bytes in base64
        texts = [text.strip()]
    if len(texts) > 2:
        raise ConfigurationError(
            f"{origin} holds {len(texts)} card keys; at most two are live: the new, then the old"
        )
    secrets_given = [_read_secret(text, origin) for text in texts]
    former = CardKey(secrets_given[1]) if len(secrets_given) == 2 else None
    return CardKey(secrets_given[0], former)


def _read_secret(text: str, origin: str) -> bytes:
    try:
        secret = bytes.fromhex(text)
    except ValueError:
        try:
            padded = text.replace("-", "+").replace("_", "/").rstrip("=")
            secret = base64.b64decode(padded + "=" * (-len(padded) % 4), validate=True)
        except (binascii.Error, ValueError):
            raise ConfigurationError(
                f"{origin} is neither hexadecimal nor base64; make a card key with: {_MAKE_KEY}"
            ) from None
    if len(secret) < MIN_KEY_BYTES:
        raise ConfigurationError(
            f"{origin} holds a card key of {len(secret)} bytes; it needs at least {MIN_KEY_BYTES}: {_MAKE_KEY}"
        )
    return secret


def _read_key_file(path: Path) -> CardKey:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigurationError(
            f"the card key file {path} cannot be opened ({error.strerror}); it must be a regular file, no link, "
            "that the running user owns"
        ) from error
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigurationError(f"the card key file {path} is no regular file; replace it by one")
        if status.st_uid != os.geteuid():
            raise ConfigurationError(
                f"the card key file {path} belongs to user {status.st_uid}; "
                f"run: chown {os.geteuid()} {path} && chmod 600 {path}"
            )
        if status.st_mode & 0o177:
            mode = stat.S_IMODE(status.st_mode)
            raise ConfigurationError(
                f"the card key file {path} has mode {mode:04o}, so others could read or run it; "
                f"run: chmod 600 {path}"
            )
        content = os.read(handle, 4097)
    finally:
        os.close(handle)
    if len(content) > 4096 or not content.isascii():
        raise ConfigurationError(f"the card key file {path} holds no key; make one with: {_MAKE_KEY} > {path}")
    return _read_key(content.decode(), f"the card key file {path}")


def _create_key_file(path: Path) -> bool:
    """Writes a new key where no file is yet; False when another process was first, whose key then stands."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(handle, "w", encoding="ascii") as file:
                file.write(secrets.token_bytes(MIN_KEY_BYTES).hex() + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.link(draft, path)  # unlike a rename, this never replaces a key that exists
        finally:
            draft.unlink()
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except FileExistsError:
        return False
    except OSError as error:
        raise ConfigurationError(
            f"the card key file {path} cannot be created ({error.strerror}); "
            f"make the directory writable or set {CARD_KEY_VARIABLE}"
        ) from error
    return True


# --- the number itself --------------------------------------------------------------------------------------

_SPACED: Final = re.compile(r"[0-9](?:[ -]?[0-9]){11,18}")
_SEPARATORS: Final = str.maketrans("", "", " -")
_MASKED: Final = re.compile(r"([0-9]{6,8})[*Xx]+([0-9]{4})")


class Pan:
    """A card number that passed the Luhn check. Its text forms show the first six and last four digits only.

    It can be neither pickled, copied nor written as JSON, so that no queue, cache or response carries it.
    """

    __slots__ = ("_digits",)

    def __init__(self, digits: str) -> None:
        self._digits = digits

    @classmethod
    def parse(cls, text: str, field_name: str = "card.pan") -> Pan:
        """The card number in `text`: 12 to 19 ASCII digits, single spaces or dashes allowed between them.

        Raises InvalidCard, which repeats no digit.
        """
        if _SPACED.fullmatch(text) is None:
            raise InvalidCard(
                field_name, "a card number is 12 to 19 digits, with single spaces or dashes between at most"
            ) from None
        digits = text.translate(_SEPARATORS)
        if not luhn_ok(digits):
            raise InvalidCard(
                field_name, "the check digit is wrong (Luhn), so this is no card number; a digit may be mistyped"
            ) from None
        return cls(digits)

    def fingerprint(self, key: CardKey) -> CardFingerprint:
        """HMAC-SHA256 over all digits, cut to 128 bits, behind the id of the key."""
        return CardFingerprint(f"fp_{key.id}_{key._hash(self._digits)[:32]}")

    @property
    def bin(self) -> str:
        """First 8 digits, or 6 of a number shorter than 16 digits: as many as PCI DSS lets be stored."""
        return self._digits[: 8 if len(self._digits) >= 16 else 6]

    @property
    def last4(self) -> str:
        return self._digits[-4:]

    @property
    def masked(self) -> str:
        return _mask(self._digits)

    @property
    def account_range(self) -> str:
        """First 11 digits, by which schemes key account ranges. For look-ups only: never recorded."""
        return self._digits[:11]

    @property
    def scheme(self) -> str | None:
        return scheme_of(self._digits)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pan) and self._digits == other._digits

    def __hash__(self) -> int:
        return hash(self._digits)

    def __repr__(self) -> str:
        return f"Pan({self.masked})"

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a card number is never pickled or copied")


def parse_masked_pan(text: str, field_name: str = "card.masked_pan") -> tuple[str, str]:
    """BIN and last four digits of a number that the gateway masked: `411111**1111`, `544714XXXXXX5619`.

    Raises InvalidCard, which repeats no digit: a whole number may have been sent by mistake.
    """
    found = _MASKED.fullmatch(text)
    if found is None:
        raise InvalidCard(
            field_name, "a masked card number is 6 to 8 digits, then `*` or `X`, then the last 4 digits"
        ) from None
    return found[1], found[2]


# --- numbers in free text -----------------------------------------------------------------------------------

_MANY_DIGITS: Final = re.compile(r"(?<![0-9])[0-9](?:[ ./_-]{0,3}[0-9]){12,}")
# A dot, slash, underscore, and two or three separators in a row separate groups of four digits and more only:
# amounts, dates and columns of small numbers are no card numbers.
_SMALL_GROUP: Final = re.compile(
    r"(?<![0-9])[0-9]{1,3}(?:[./_]|[ -][ ./_-])|(?:[./_]|[ ./_-][ -])[0-9]{1,3}(?![0-9])"
)
_GROUP: Final = re.compile(r"[0-9]+")
_NO_DIGITS: Final = re.compile(r"[^0-9]+")
_MAY_HOLD_PAN: Final = re.compile(r"\d(?:[\W_]{0,3}\d){12}")


def find_pans(text: str) -> list[tuple[int, int]]:
    """Where card numbers stand in any text, as `(start, end)` in order; overlapping finds are one stretch.

    A card number is 13 to 19 digits of any script, single spaces or dashes allowed between (and dots, slashes,
    underscores, and up to three of them all in a row between groups of four or more), that pass Luhn and have a
    prefix and length that one scheme uses. Digits that touch it make it another number, so that long reference
    numbers are rarely hit; about one in ten order numbers of 16 digits that begin like a card still is.
    """
    found: list[tuple[int, int]] = []
    if not text.isascii() and _MAY_HOLD_PAN.search(text) is not None:
        text = _plain(text)
    for run in _MANY_DIGITS.finditer(text):
        groups = [match.span() for match in _GROUP.finditer(text, *run.span())]
        for first, (start, _) in enumerate(groups):
            digits = ""
            for begin, end in groups[first:]:
                digits += text[begin:end]
                if len(digits) > 19:
                    break
                if len(digits) >= 13 and _has_card_form(digits) and not _SMALL_GROUP.search(text[start:end]):
                    if found and start < found[-1][1]:
                        found[-1] = (found[-1][0], max(end, found[-1][1]))
                    else:
                        found.append((start, end))
    return found


def _plain(text: str) -> str:
    """The text, character by character, with ASCII digits for those of other scripts, and so spaces and dashes."""
    return text if text.isascii() else "".join(map(_plain_character, text))


def _plain_character(character: str) -> str:
    if character.isdecimal():
        return str(unicodedata.decimal(character))
    category = unicodedata.category(character)
    return " " if category == "Zs" else "-" if category == "Pd" or character == "\u2212" else character


def _has_card_form(digits: str) -> bool:
    scheme = _SCHEME_BY_FOUR[int(digits[:4])]
    return scheme is not None and len(digits) in _LENGTHS[scheme] and luhn_ok(digits)


def hide_pans(text: str) -> str:
    """The text with every card number masked."""
    return _replace_pans(text, None)


def disguise_pans(text: str, key: CardKey) -> str:
    """The text with every card number masked and followed by `#` and eight letters of a keyed hash.

    Equal numbers stay equal and different ones different, so an identifier that happens to be a card number
    still identifies, without being stored. Disguising twice changes nothing more.
    """
    return _replace_pans(text, key)


def _replace_pans(text: str, key: CardKey | None) -> str:
    # What a mask leaves of a number can meet digits beside it and look like a card number again; each turn
    # leaves fewer digits, so the loop ends, and its end is a text in which nothing is found.
    while found := find_pans(text):
        pieces: list[str] = []
        done = 0
        for start, end in found:
            digits = _NO_DIGITS.sub("", _plain(text[start:end]))
            mark = f"#{key._hash('identifier ' + digits)[:8]}" if key is not None else ""
            pieces += (text[done:start], _mask(digits), mark)
            done = end
        text = "".join(pieces) + text[done:]
    return text


class HidePans(logging.Filter):
    """Masks card numbers in everything that a log record carries as text; put it on every handler."""

    def filter(self, record: logging.LogRecord) -> bool:
        self._hide_message(record)
        if record.exc_info and not record.exc_text:
            text = logging.Formatter().formatException(record.exc_info)
            if find_pans(text):
                record.exc_text, record.exc_info = text, None  # another formatter would format it anew
        for name, value in list(record.__dict__.items()):
            if isinstance(value, str) and find_pans(value):
                setattr(record, name, hide_pans(value))
        return True

    @staticmethod
    def _hide_message(record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except (TypeError, ValueError, KeyError):  # logging would print message and arguments to stderr
            message = f"{record.msg} {record.args}"
            record.msg, record.args = message, ()
        if not find_pans(message):
            return
        # Arguments keep their places when they can: uvicorn's access log reads them one by one.
        args = record.args
        if isinstance(args, tuple) and args and not find_pans(str(record.msg)):
            record.args = tuple(hide_pans(str(arg)) if find_pans(str(arg)) else arg for arg in args)
            try:
                if not find_pans(record.getMessage()):
                    return
            except (TypeError, ValueError):
                pass
        record.msg, record.args = hide_pans(message), ()

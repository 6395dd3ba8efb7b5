"""Rules for `bench_replay`: twenty live rules and two velocity counters, the same for the four sample merchants."""

from __future__ import annotations

from pathlib import Path

MERCHANTS = ("carthage-market", "medina-topup", "sahara-travel", "yasmine-donations")
PLATFORM = """\
rule_set: platform
description: Rules of the replay benchmark.
otherwise: accept
timezone: Africa/Tunis
lists:
  blacklist: {of: card}
  blocked_ip_countries: {of: country}
  blocked_card_countries: {of: country}
  blocked_domains: {of: email_domain}
  blocked_bins: {of: bin}
  blocked_ips: {of: ip}
  trusted_customers: {of: customer}
metadata:
  campaign: text
velocity:
  attempts_per_card_1h: {count: transactions, per: card, within: 1 hour}
  spent_per_card_24h: {sum: amount, per: card, within: 24 hours}
rules:
  - {id: r01, when: {card: {in_list: blacklist}}, then: refuse, reason: R01, final: true}
  - {id: r02, when: {ip_country: {in_list: blocked_ip_countries}}, then: refuse, reason: R02}
  - {id: r03, when: {card_country: {in_list: blocked_card_countries}}, then: refuse, reason: R03}
  - {id: r04, when: {email_domain: {in_list: blocked_domains}}, then: challenge, reason: R04}
  - {id: r05, when: {card_bin: {in_list: blocked_bins}}, then: refuse, reason: R05}
  - {id: r06, when: {ip_address: {in_list: blocked_ips}}, then: refuse, reason: R06}
  - {id: r07, when: {customer: {in_list: trusted_customers}}, then: accept, reason: R07}
  - {id: r08, when: {card_expired: true}, then: refuse, reason: R08}
  - {id: r09, when: {card_type: prepaid, amount: {over: {TND: 40, EUR: 20, USD: 20}}}, then: challenge, reason: R09}
  - {id: r10, when: {ip_country: {not: $card_country}}, then: challenge, reason: R10}
  - id: r11
    when: {amount: {over: {TND: 300, EUR: 90, USD: 100}}}
    if_unknown: challenge
    then: challenge
    reason: R11
  - {id: r12, when: {amount: {over: {TND: 5000, EUR: 1500, USD: 1700}}}, then: refuse, reason: R12}
  - {id: r13, when: {hour: {between: [1, 4]}, amount: {over: {TND: 100, EUR: 30}}}, then: challenge, reason: R13}
  - {id: r14, when: {weekday: [saturday, sunday], channel: moto}, then: refuse, reason: R14}
  - {id: r15, when: {channel: recurring, amount: {over: 100 TND}}, then: refuse, reason: R15}
  - {id: r16, when: {all: [{card_country: unknown}, {ip_country: unknown}]}, then: challenge, reason: R16}
  - id: r17
    when: {metadata.campaign: {starts_with: round-up-}, amount: {over: 50 TND}}
    then: challenge
    reason: R17
  - id: r18
    when: {billing_country: {not: $card_country}}
    unless: {customer: unknown}
    then: challenge
    reason: R18
  - {id: r19, when: {attempts_per_card_1h: {at_least: 3}}, then: refuse, reason: R19}
  - {id: r20, when: {spent_per_card_24h: {over: {TND: 2000, EUR: 600, USD: 700}}}, then: challenge, reason: R20}
"""
MERCHANT = """\
merchant: {name}
description: A merchant of the replay benchmark.
extends: platform
lists:
  blacklist: [fp_00beef_{letters}]
  blocked_ip_countries: [NG, RU]
  blocked_card_countries: [NG]
  blocked_domains: [mailinator.com]
  blocked_bins: ["40407012"]
  blocked_ips: [41.231.0.0/16]
  trusted_customers: [c-1001, c-2002]
"""


def write_rules(directory: Path) -> Path:
    """The rule directory of the benchmark."""
    (directory / "merchants").mkdir(parents=True)
    (directory / "platform.yaml").write_text(PLATFORM)
    for name in MERCHANTS:
        text = MERCHANT.format(name=name, letters="a" * 32)
        (directory / "merchants" / f"{name}.yaml").write_text(text)
    return directory

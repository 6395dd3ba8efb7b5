"""The work of `bench_replay` as SQL written by hand for DuckDB, as somebody would who knows it and the rules well.

It leans on what its author knows of the data: a second step comes within two minutes of the first and with the same
card, nothing arrives late enough to matter, and nobody reported technical failures.
"""

from __future__ import annotations

from pathlib import Path

_LOOK_UPS = """
CREATE TEMP TABLE ip AS
    SELECT a.ip_key, r.country AS ip_country
    FROM (SELECT DISTINCT ip_key FROM '{history}' WHERE ip_key IS NOT NULL) a
    ASOF JOIN '{ip_ranges}' r ON a.ip_key >= r.low WHERE a.ip_key <= r.high;
CREATE TEMP TABLE bin AS
    SELECT b.card_bin, r.country, r.type, r.brand
    FROM (SELECT DISTINCT card_bin FROM '{history}' WHERE card_bin IS NOT NULL) b
    JOIN '{bin_ranges}' r ON r.bucket = b.card_bin[:6] AND r.digits = length(b.card_bin)
        AND b.card_bin BETWEEN r.low AND r.high;
"""

_DECIDE = """
CREATE TEMP TABLE by_hand AS
WITH facts AS (
    SELECT h.seq, h.merchant, h.at_us, h.minor, h.currency, h.label, h.recorded_outcome, h.channel, h.card,
        h.card_bin, h.ip_key, h.email, h.customer, h.billing_country, h.step, h.card_expires_us,
        h."metadata.campaign:text" AS campaign, ip.ip_country, bin.country AS card_country, bin.type AS card_type,
        ((h.at_us + 3600000000) // 3600000000) % 24 AS hour,
        ((h.at_us + 3600000000) // 86400000000 + 3) % 7 AS weekday,
        CASE WHEN three_ds_status IS NULL THEN 'none'
            WHEN three_ds_status = 'N' THEN 'failed' WHEN three_ds_status = 'R' THEN 'rejected'
            WHEN step > 0 AND minor > first_minor THEN 'none'
            WHEN three_ds_status = 'U' THEN 'unavailable'
            WHEN three_ds_status = 'Y' AND eci IN (CASE WHEN brand IN ('mastercard', 'maestro') THEN '02'
                WHEN brand IS NULL THEN '02' ELSE '05' END, CASE WHEN brand IN ('mastercard', 'maestro') THEN '07'
                ELSE '05' END) THEN 'authenticated'
            WHEN three_ds_status = 'A' AND eci IN (CASE WHEN brand IN ('mastercard', 'maestro') THEN '01'
                WHEN brand IS NULL THEN '01' ELSE '06' END, CASE WHEN brand IN ('mastercard', 'maestro') THEN '01'
                ELSE '06' END) THEN 'attempted'
            ELSE 'unavailable' END AS three_ds
    FROM '{history}' h LEFT JOIN ip USING (ip_key) LEFT JOIN bin USING (card_bin)
), counted AS (
    SELECT *,
        CASE WHEN card IS NOT NULL THEN count(*) FILTER (step = 0) OVER (PARTITION BY merchant, card ORDER BY at_us
            RANGE BETWEEN 3600000000 PRECEDING AND 1 PRECEDING) - (step > 0)::INT END AS attempts,
        CASE WHEN card IS NOT NULL THEN coalesce(sum(minor) FILTER (step = 0) OVER (PARTITION BY merchant, card,
            currency ORDER BY at_us RANGE BETWEEN 86400000000 PRECEDING AND 1 PRECEDING), 0)
            - CASE WHEN step > 0 THEN minor ELSE 0 END END AS spent
    FROM facts
), matched AS (
    SELECT *,
        coalesce(card = 'fp_00beef_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', false) AS r01,
        coalesce(ip_country IN ('NG', 'RU'), false) AS r02,
        coalesce(card_country = 'NG', false) AS r03,
        coalesce(split_part(email, '@', 2) = 'mailinator.com', false) AS r04,
        coalesce(starts_with(card_bin, '40407012'), false) AS r05,
        coalesce(ip_key BETWEEN '429e70000' AND '429e7ffff', false) AS r06,
        coalesce(customer IN ('c-1001', 'c-2002'), false) AS r07,
        coalesce(at_us >= card_expires_us, false) AS r08,
        coalesce(card_type = 'prepaid' AND minor > CASE currency WHEN 'TND' THEN 40000 ELSE 2000 END, false) AS r09,
        coalesce(ip_country <> card_country, false) AS r10,
        minor > CASE currency WHEN 'TND' THEN 300000 WHEN 'EUR' THEN 9000 ELSE 10000 END AS r11,
        minor > CASE currency WHEN 'TND' THEN 5000000 WHEN 'EUR' THEN 150000 ELSE 170000 END AS r12,
        coalesce(hour BETWEEN 1 AND 4 AND minor > CASE currency WHEN 'TND' THEN 100000 WHEN 'EUR' THEN 3000 END,
            false) AS r13,
        weekday IN (5, 6) AND channel = 'moto' AS r14,
        coalesce(channel = 'recurring' AND currency = 'TND' AND minor > 100000, false) AS r15,
        card_country IS NULL AND ip_country IS NULL AS r16,
        coalesce(starts_with(campaign, 'round-up-') AND currency = 'TND' AND minor > 50000, false) AS r17,
        coalesce(billing_country <> card_country AND customer IS NOT NULL, false) AS r18,
        coalesce(attempts >= 3, false) AS r19,
        coalesce(spent > CASE currency WHEN 'TND' THEN 2000000 WHEN 'EUR' THEN 60000 ELSE 70000 END, false) AS r20
    FROM counted
), ruled AS (
    SELECT seq, merchant, at_us, currency, minor, label, recorded_outcome, three_ds, channel,
        {bits} AS bits,
        CASE WHEN r01 THEN 'refuse' WHEN r07 THEN 'accept'
            WHEN r02 OR r03 OR r05 OR r06 OR r08 OR r12 OR r14 OR r15 OR r19 THEN 'refuse'
            WHEN r04 OR r09 OR r10 OR r11 OR r13 OR r16 OR r17 OR r18 OR r20 THEN 'challenge'
            ELSE 'accept' END AS before,
        CASE WHEN r01 THEN 1 WHEN r07 THEN 7 WHEN r02 THEN 2 WHEN r03 THEN 3 WHEN r05 THEN 5 WHEN r06 THEN 6
            WHEN r08 THEN 8 WHEN r12 THEN 12 WHEN r14 THEN 14 WHEN r15 THEN 15 WHEN r19 THEN 19 WHEN r04 THEN 4
            WHEN r09 THEN 9 WHEN r10 THEN 10 WHEN r11 THEN 11 WHEN r13 THEN 13 WHEN r16 THEN 16 WHEN r17 THEN 17
            WHEN r18 THEN 18 WHEN r20 THEN 20 END AS rule
    FROM matched
)
SELECT seq, merchant, at_us, currency, minor, label, recorded_outcome, bits, rule,
    CASE WHEN three_ds IN ('failed', 'rejected') THEN 'refuse' WHEN before <> 'challenge' THEN before
        WHEN three_ds IN ('authenticated', 'attempted') THEN 'accept' WHEN three_ds = 'unavailable' THEN 'refuse'
        WHEN channel IN ('moto', 'recurring') THEN 'refuse' ELSE 'challenge' END AS outcome
FROM ruled;
CREATE TEMP TABLE by_hand_cube AS
    SELECT merchant, currency, label, recorded_outcome, outcome, rule, bits, count(*) AS transactions,
        sum(minor) AS minor, min(at_us) AS first_us, max(at_us) AS last_us
    FROM by_hand GROUP BY ALL;
CREATE TEMP TABLE by_hand_days AS
    SELECT at_us // 86400000000 AS day, merchant, recorded_outcome, outcome, count(*) AS transactions
    FROM by_hand GROUP BY ALL;
"""


def statements(history: Path, ip_ranges: Path, bin_ranges: Path) -> list[str]:
    """The statements, in order."""
    bits = " + ".join(f"(r{number:02d}::BIGINT << {number - 1})" for number in range(1, 21))
    text = (_LOOK_UPS + _DECIDE).format(history=history, ip_ranges=ip_ranges, bin_ranges=bin_ranges, bits=bits)
    return [statement for statement in text.split(";") if statement.strip()]

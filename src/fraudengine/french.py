"""What explanations say in French and no other module holds: countries, facts, and why a rule is off."""

from __future__ import annotations

import re
from typing import Final

# ISO 3166-1 alpha-2 codes with their usual French names.
_COUNTRY_ROWS: Final = """
AD Andorre|AE Émirats arabes unis|AF Afghanistan|AG Antigua-et-Barbuda|AI Anguilla|AL Albanie|AM Arménie
AO Angola|AQ Antarctique|AR Argentine|AS Samoa américaines|AT Autriche|AU Australie|AW Aruba|AX Îles Åland
AZ Azerbaïdjan|BA Bosnie-Herzégovine|BB Barbade|BD Bangladesh|BE Belgique|BF Burkina Faso|BG Bulgarie
BH Bahreïn|BI Burundi|BJ Bénin|BL Saint-Barthélemy|BM Bermudes|BN Brunei|BO Bolivie
BQ Bonaire, Saint-Eustache et Saba|BR Brésil|BS Bahamas|BT Bhoutan|BV Île Bouvet|BW Botswana|BY Biélorussie
BZ Belize|CA Canada|CC Îles Cocos|CD République démocratique du Congo|CF République centrafricaine|CG Congo
CH Suisse|CI Côte d'Ivoire|CK Îles Cook|CL Chili|CM Cameroun|CN Chine|CO Colombie|CR Costa Rica|CU Cuba
CV Cap-Vert|CW Curaçao|CX Île Christmas|CY Chypre|CZ Tchéquie|DE Allemagne|DJ Djibouti|DK Danemark
DM Dominique|DO République dominicaine|DZ Algérie|EC Équateur|EE Estonie|EG Égypte|EH Sahara occidental
ER Érythrée|ES Espagne|ET Éthiopie|FI Finlande|FJ Fidji|FK Îles Malouines|FM Micronésie|FO Îles Féroé
FR France|GA Gabon|GB Royaume-Uni|GD Grenade|GE Géorgie|GF Guyane française|GG Guernesey|GH Ghana|GI Gibraltar
GL Groenland|GM Gambie|GN Guinée|GP Guadeloupe|GQ Guinée équatoriale|GR Grèce
GS Géorgie du Sud et îles Sandwich du Sud|GT Guatemala|GU Guam|GW Guinée-Bissau|GY Guyana|HK Hong Kong
HM Îles Heard-et-MacDonald|HN Honduras|HR Croatie|HT Haïti|HU Hongrie|ID Indonésie|IE Irlande|IL Israël
IM Île de Man|IN Inde|IO Territoire britannique de l'océan Indien|IQ Irak|IR Iran|IS Islande|IT Italie
JE Jersey|JM Jamaïque|JO Jordanie|JP Japon|KE Kenya|KG Kirghizistan|KH Cambodge|KI Kiribati|KM Comores
KN Saint-Christophe-et-Niévès|KP Corée du Nord|KR Corée du Sud|KW Koweït|KY Îles Caïmans|KZ Kazakhstan|LA Laos
LB Liban|LC Sainte-Lucie|LI Liechtenstein|LK Sri Lanka|LR Liberia|LS Lesotho|LT Lituanie|LU Luxembourg
LV Lettonie|LY Libye|MA Maroc|MC Monaco|MD Moldavie|ME Monténégro|MF Saint-Martin (partie française)
MG Madagascar|MH Îles Marshall|MK Macédoine du Nord|ML Mali|MM Birmanie|MN Mongolie|MO Macao
MP Îles Mariannes du Nord|MQ Martinique|MR Mauritanie|MS Montserrat|MT Malte|MU Maurice|MV Maldives|MW Malawi
MX Mexique|MY Malaisie|MZ Mozambique|NA Namibie|NC Nouvelle-Calédonie|NE Niger|NF Île Norfolk|NG Nigeria
NI Nicaragua|NL Pays-Bas|NO Norvège|NP Népal|NR Nauru|NU Niue|NZ Nouvelle-Zélande|OM Oman|PA Panama|PE Pérou
PF Polynésie française|PG Papouasie-Nouvelle-Guinée|PH Philippines|PK Pakistan|PL Pologne
PM Saint-Pierre-et-Miquelon|PN Îles Pitcairn|PR Porto Rico|PS Palestine|PT Portugal|PW Palaos|PY Paraguay
QA Qatar|RE La Réunion|RO Roumanie|RS Serbie|RU Russie|RW Rwanda|SA Arabie saoudite|SB Îles Salomon
SC Seychelles|SD Soudan|SE Suède|SG Singapour|SH Sainte-Hélène, Ascension et Tristan da Cunha|SI Slovénie
SJ Svalbard et Jan Mayen|SK Slovaquie|SL Sierra Leone|SM Saint-Marin|SN Sénégal|SO Somalie|SR Suriname
SS Soudan du Sud|ST Sao Tomé-et-Principe|SV Salvador|SX Saint-Martin (partie néerlandaise)|SY Syrie
SZ Eswatini|TC Îles Turques-et-Caïques|TD Tchad|TF Terres australes françaises|TG Togo|TH Thaïlande
TJ Tadjikistan|TK Tokelau|TL Timor oriental|TM Turkménistan|TN Tunisie|TO Tonga|TR Turquie
TT Trinité-et-Tobago|TV Tuvalu|TW Taïwan|TZ Tanzanie|UA Ukraine|UG Ouganda
UM Îles mineures éloignées des États-Unis|US États-Unis|UY Uruguay|UZ Ouzbékistan|VA Vatican
VC Saint-Vincent-et-les-Grenadines|VE Venezuela|VG Îles Vierges britanniques|VI Îles Vierges américaines
VN Viêt Nam|VU Vanuatu|WF Wallis-et-Futuna|WS Samoa|YE Yémen|YT Mayotte|ZA Afrique du Sud|ZM Zambie
ZW Zimbabwe
"""

COUNTRIES: Final[dict[str, str]] = {
    row[:2]: row[3:] for line in _COUNTRY_ROWS.strip().splitlines() for row in line.split("|")
}

# What each fact of the catalogue is, to stand in parentheses after its name.
FACTS: Final[dict[str, str]] = {
    "amount": "montant",
    "currency": "devise",
    "channel": "canal",
    "terminal": "terminal",
    "card": "carte",
    "card_bin": "premiers chiffres de la carte",
    "card_brand": "réseau de la carte",
    "card_type": "type de carte",
    "card_issuer": "banque de la carte",
    "card_expired": "carte expirée",
    "card_country": "pays de la carte",
    "ip_address": "adresse internet",
    "ip_country": "pays de l'adresse internet",
    "email": "e-mail",
    "email_domain": "domaine de l'e-mail",
    "phone": "téléphone",
    "phone_country": "pays du téléphone",
    "customer": "client",
    "device": "appareil",
    "billing_country": "pays de facturation",
    "shipping_country": "pays de livraison",
    "three_ds": "résultat 3-D Secure",
    "three_ds_version": "version de 3-D Secure",
    "eci": "indicateur ECI",
    "hour": "heure",
    "weekday": "jour de la semaine",
}

# Why a rule is off, as `link` says it, and the same in French.
_OFF: Final = (
    (re.compile(r"nobody gave (`[^`]+`) a value"), r"personne n'a donné de valeur à \1"),
    (re.compile(r"nobody filled the list (`[^`]+`)"), r"personne n'a rempli la liste \1"),
    (re.compile(r"the rule says `mode: off`"), "la règle dit `mode: off`"),
    (re.compile(r"`change` says `mode: off`"), "`change` dit `mode: off`"),
    (re.compile(r" and "), " et "),
)


def off_because(english: str) -> str:
    """The French of a rule's `off_because`."""
    for pattern, replacement in _OFF:
        english = pattern.sub(replacement, english)
    return english

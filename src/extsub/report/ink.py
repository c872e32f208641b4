"""Shapes and colours of the trade-off picture, in light and dark."""

from __future__ import annotations

SHAPES = {
    "ext-sub": "M-5,0a5,5 0 1,0 10,0a5,5 0 1,0 -10,0Z",
    "subtract": "M-4.4,-4.4H4.4V4.4H-4.4Z",
    "contrast": "M0,-5.6L5.2,4H-5.2Z",
    "amplify": "M0,-6L6,0L0,6L-6,0Z",
    "add": "M-2,-6H2V-2H6V2H2V6H-2V2H-6V-2H-2Z",
    "negated": "M0,5.6L5.2,-4H-5.2Z",
    "icd": "M-5.4,0L-2.7,-4.7H2.7L5.4,0L2.7,4.7H-2.7Z",
    "dexperts": "M0,-5.7L5.4,-1.8L3.4,4.6H-3.4L-5.4,-1.8Z",
    "prompt": "M-5.5,-4.8H5.5V2.6H0.5L-3.2,6V2.6H-5.5Z",
    "random": "M-5,-3.4L-3.4,-5L0,-1.6L3.4,-5L5,-3.4L1.6,0L5,3.4L3.4,5L0,1.6L-3.4,5L-5,3.4L-1.6,0Z",
}
"""A shape for each operation, so that nobody needs the colours, which are Okabe and Ito's; and for each method of
reference, whose marks are hollow, in colours of Paul Tol's."""
OWN = "M-5,-4.5H5L2,0L5,4.5H-5L-2,0Z"
"""The shape of an operation of the user's own."""
STAR = "M0,-7L1.9,-2.2L7,-2.2L2.9,0.9L4.4,6L0,2.9L-4.4,6L-2.9,0.9L-7,-2.2L-1.9,-2.2Z"
"""The shapes of base, expert and anti-expert."""
STYLE = """
.tr text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,Helvetica,Arial,sans-serif;fill:#3d4550}
.tr .frame{stroke:#8b95a1;fill:none}.tr .grid{stroke:#e3e7eb}.tr .title{font-weight:600;fill:#1b2128}
.tr .line{fill:none;stroke-width:1.8;stroke-linejoin:round}.tr .op-ext-sub .line{stroke-width:3}
.tr .op-random .line,.tr .op-negated .line{stroke-dasharray:5 4}
.tr .mark{stroke:#fff;stroke-width:1}.tr .ring{fill:none;stroke:#1b2128;stroke-width:1.6}.tr .hit{fill:transparent}
.tr .ci{stroke-width:1.4;opacity:0}.tr .chosen .ci{opacity:.5}.tr .p:hover .ci,.tr .p:focus .ci{opacity:1}
.tr .p{outline:none;cursor:default}.tr .p:focus .mark,.tr .p:hover .mark{stroke:#1b2128;stroke-width:1.6}
.tr .alpha{font-size:11px;paint-order:stroke;stroke:#fff;stroke-width:3px;stroke-linejoin:round}
.tr .model .mark{fill:#1b2128}.tr .model .alpha{font-weight:600;font-size:12px;fill:#1b2128}
.tr .over{fill:#d55e00;opacity:.07}.tr .limit{stroke:#a8480a;stroke-dasharray:7 4;stroke-width:1.4}
.tr .limit-text{fill:#a8480a;paint-order:stroke;stroke:#fff;stroke-width:3px}
.tr .reference{stroke:#8b95a1;stroke-dasharray:2 3}
.tr:has(.curve:hover) .curve:not(:hover){opacity:.25}
.tr .curve,.tr .key{--c:#6a51a3}
.tr .op-ext-sub{--c:#0072b2}.tr .op-subtract{--c:#d55e00}.tr .op-contrast{--c:#009e73}.tr .op-amplify{--c:#cc79a7}
.tr .op-add{--c:#56b4e9}.tr .op-negated{--c:#a07800}.tr .op-random{--c:#8a8f98}.tr .model{--c:#1b2128}
.tr .op-icd{--c:#882255}.tr .op-dexperts{--c:#332288}.tr .op-prompt{--c:#1b2128}
.tr .line,.tr .ci{stroke:var(--c)}.tr .curve .mark,.tr .key .mark{fill:var(--c)}.tr .curve .alpha{fill:#3d4550}
.tr .method .line{stroke-dasharray:.1 4.5;stroke-linecap:round;stroke-width:2.2}
.tr .method .mark{fill:#fff;stroke:var(--c);stroke-width:1.8}
@media screen and (prefers-color-scheme:dark){
.tr text,.tr .curve .alpha{fill:#b9c2cc}.tr .frame{stroke:#66717d}.tr .grid{stroke:#2a323b}.tr .title{fill:#eef2f6}
.tr .mark{stroke:#161b21}.tr .ring,.tr .p:focus .mark,.tr .p:hover .mark{stroke:#fff}.tr .alpha{stroke:#161b21}
.tr .model .mark,.tr .model .alpha{fill:#eef2f6}.tr .model{--c:#eef2f6}
.tr .limit{stroke:#ff9d5c}.tr .limit-text{fill:#ff9d5c;stroke:#161b21}.tr .over{fill:#ff9d5c}
.tr .op-ext-sub{--c:#4aa8e8}.tr .op-subtract{--c:#ff8a3d}.tr .op-contrast{--c:#2fcfa0}.tr .op-amplify{--c:#e39cc4}
.tr .op-negated{--c:#e0b93c}.tr .op-icd{--c:#ff7f9f}.tr .op-dexperts{--c:#a79bff}.tr .op-prompt{--c:#eef2f6}
.tr .method .mark{fill:#161b21;stroke:var(--c)}}
"""

"""Reports as pages of HTML that need no other file."""

import base64
import html

__all__ = ["document", "lines", "picture"]


def document(title: str, body: str) -> str:
    """A whole page, from its body as HTML.

    >>> "<h1>A &amp; B</h1>" in document("A & B", "<p>text</p>")
    True
    """
    title = html.escape(title)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
:root {{ color-scheme: light dark }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
figure {{ margin: 1.5rem 0 }} img {{ max-width: 100%; background: white; border-radius: 4px }}
figcaption {{ opacity: .75 }} pre {{ overflow-x: auto; padding: .7rem; border: 1px solid #8886; border-radius: 4px }}
table {{ border-collapse: collapse }} th, td {{ padding: .2rem .9rem .2rem 0; text-align: left }}
</style></head><body>
<h1>{title}</h1>
{body}
</body></html>
"""


def picture(image: bytes, caption: str) -> str:
    """A PNG with its caption, text.

    >>> picture(b"", "a < b")[-42:]
    '<figcaption>a &lt; b</figcaption></figure>'
    """
    source, text = base64.b64encode(image).decode(), html.escape(caption)
    return f'<figure><img src="data:image/png;base64,{source}" alt="{text}"><figcaption>{text}</figcaption></figure>'


def lines(texts: list[str]) -> str:
    """Texts as they are, a line each.

    >>> lines(["a", "b < c"])
    '<pre>a\\nb &lt; c</pre>'
    """
    return "<pre>" + "\n".join(html.escape(text) for text in texts) + "</pre>"

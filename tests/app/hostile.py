"""A text that holds all that can hurt a page."""

HOSTILE = (
    '<script>window.hurt = 1</script><img src=x onerror="window.hurt = 1"> ${window.hurt = 1} '
    "{{value}} {% raw %} \u202eabc\u202c zero\u200bwidth \ufeff </pre></div>\n"
)

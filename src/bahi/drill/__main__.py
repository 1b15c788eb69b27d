"""`python -m bahi.drill FD`: a host, loaded as `bahi run` is."""

from bahi.quiet import loading

with loading():
    from bahi.drill.host import main

main()

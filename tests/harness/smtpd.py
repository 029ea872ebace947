"""An SMTP server that keeps each mail as a file. Usage: smtpd.py FOLDER [CERTIFICATE KEY USER PASSWORD]

Listens on a port of loopback that the system chooses, and prints it. With a certificate it wants STARTTLS and a login.
Recipients whose name begins with three digits are refused with that code; `once451@…` is refused the first time.
"""

import asyncio
import json
import os
import re
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

folder, secured = sys.argv[1], sys.argv[2:]
seen = set()
count = 0


class Keeper:
    async def handle_RCPT(self, server, session, envelope, address, options):
        code = re.match(r"(once)?(\d{3})", address)
        if code and (not code[1] or address not in seen):
            seen.add(address)
            return f"{code[2]} {code[2][0]}.1.1 refused"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server, session, envelope):
        global count
        count += 1
        path = f"{folder}/{count:04}"
        facts = {
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "tls": session.ssl is not None,
            "login": getattr(session, "login", None),
            "mail": envelope.original_content.decode(),
        }
        with open(path + ".part", "w") as file:
            json.dump(facts, file)
        os.rename(path + ".part", path + ".json")
        return "250 2.0.0 OK"


def log_in(server, session, envelope, mechanism, data):
    user, password = (text.encode() for text in secured[2:])
    right = isinstance(data, LoginPassword) and (data.login, data.password) == (user, password)
    if right:
        session.login = data.login.decode()
    return AuthResult(success=right, handled=right)


def session():
    if not secured:
        return SMTP(Keeper(), hostname="mail.example")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(secured[0], secured[1])
    return SMTP(
        Keeper(),
        hostname="mail.example",
        tls_context=context,
        require_starttls=True,
        authenticator=log_in,
        auth_required=True,
    )


async def main():
    server = await asyncio.get_running_loop().create_server(session, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())

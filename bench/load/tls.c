/* TLS of all connections, with --certificate. */
#include "load.h"

#ifdef WITH_TLS
#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>

static SSL_CTX *context;

void tls_init(const char *file)
{
    signal(SIGPIPE, SIG_IGN); /* OpenSSL writes without MSG_NOSIGNAL */
    context = SSL_CTX_new(TLS_method());
    if (context == NULL || SSL_CTX_use_certificate_chain_file(context, file) != 1 ||
        SSL_CTX_use_PrivateKey_file(context, file, SSL_FILETYPE_PEM) != 1)
        fatal("%s is not a certificate with its key", file);
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_read_ahead(context, 1); /* one system call for many records */
}

void tls_start(struct conn *conn, bool is_client)
{
    if (context == NULL)
        return;
    conn->tls = SSL_new(context);
    if (conn->tls == NULL || SSL_set_fd(conn->tls, conn->fd) != 1)
        fatal("no memory");
    if (is_client)
        SSL_set_connect_state(conn->tls); /* the certificate of a relay is not checked */
    else
        SSL_set_accept_state(conn->tls);
}

void tls_free(struct conn *conn)
{
    SSL_free(conn->tls);
    conn->tls = NULL;
}

/* Translate the result of a call to what `recv` and `send` return. The caller has cleared the queue of
   errors: an error of another connection in it would count as one of this call. */
static ssize_t result_of(SSL *tls, int result)
{
    if (result > 0)
        return result;
    int error = SSL_get_error(tls, result);
    errno = error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE ? EAGAIN : EIO;
    return error == SSL_ERROR_ZERO_RETURN ? 0 : -1;
}

ssize_t tls_receive(struct conn *conn, char *to, size_t size)
{
    ERR_clear_error();
    return result_of(conn->tls, SSL_read(conn->tls, to, (int)size));
}

ssize_t tls_send(struct conn *conn, const char *data, size_t size)
{
    ERR_clear_error();
    return result_of(conn->tls, SSL_write(conn->tls, data, (int)size));
}

bool tls_awaits_peer(const struct conn *conn)
{
    return SSL_in_init(conn->tls) && !SSL_want_write(conn->tls);
}

#endif

// What the portable program (ZOE_PORTABLE) has of GnuTLS: nothing. Debian's static libmicrohttpd refers to it for connections over
// TLS, which this server does not offer (that is a proxy's work), and GnuTLS has no static libraries of all that it needs. None of
// these is called but the first two, at the program's begin and end. With a version of libmicrohttpd that refers to more the link
// fails.
extern "C" {

int gnutls_global_init() { return 0; }
void gnutls_global_deinit() {}

#define ZOE_NOTHING(name) \
  int name() { return -1; }
ZOE_NOTHING(gnutls_alpn_set_protocols)
ZOE_NOTHING(gnutls_bye)
ZOE_NOTHING(gnutls_certificate_allocate_credentials)
ZOE_NOTHING(gnutls_certificate_free_credentials)
ZOE_NOTHING(gnutls_certificate_server_set_request)
ZOE_NOTHING(gnutls_certificate_set_dh_params)
ZOE_NOTHING(gnutls_certificate_set_retrieve_function2)
ZOE_NOTHING(gnutls_certificate_set_retrieve_function3)
ZOE_NOTHING(gnutls_certificate_set_x509_key_mem)
ZOE_NOTHING(gnutls_certificate_set_x509_key_mem2)
ZOE_NOTHING(gnutls_certificate_set_x509_trust_mem)
ZOE_NOTHING(gnutls_cipher_get)
ZOE_NOTHING(gnutls_credentials_set)
ZOE_NOTHING(gnutls_deinit)
ZOE_NOTHING(gnutls_dh_params_deinit)
ZOE_NOTHING(gnutls_dh_params_import_pkcs3)
ZOE_NOTHING(gnutls_dh_params_init)
ZOE_NOTHING(gnutls_handshake)
ZOE_NOTHING(gnutls_init)
ZOE_NOTHING(gnutls_priority_deinit)
ZOE_NOTHING(gnutls_priority_init)
ZOE_NOTHING(gnutls_priority_set)
ZOE_NOTHING(gnutls_protocol_get_version)
ZOE_NOTHING(gnutls_psk_allocate_server_credentials)
ZOE_NOTHING(gnutls_psk_free_server_credentials)
ZOE_NOTHING(gnutls_psk_set_server_credentials_function)
ZOE_NOTHING(gnutls_record_check_pending)
ZOE_NOTHING(gnutls_record_get_direction)
ZOE_NOTHING(gnutls_record_recv)
ZOE_NOTHING(gnutls_record_send)
ZOE_NOTHING(gnutls_session_get_ptr)
ZOE_NOTHING(gnutls_session_set_ptr)
ZOE_NOTHING(gnutls_strerror)
ZOE_NOTHING(gnutls_transport_set_int2)
#undef ZOE_NOTHING
void* gnutls_malloc = nullptr;  // a pointer to a function

}  // extern "C"

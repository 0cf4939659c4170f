// SPDX-License-Identifier: Apache-2.0
/* user.c - tests of the user-mode network: DHCP and ARP by hand-made frames, forwarded ports. */
#include <arpa/inet.h>
#include <check.h>
#include <glib.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/loop.h"
#include "net/net.h"

static const uint8_t our_mac[6] = { 0x52, 0x54, 0, 1, 2, 3 };

static struct loop *loop;
static struct {
	uint8_t frame[2048];
	size_t len;
	unsigned count;
	bool full, waiting;
	bool (*wanted)(const uint8_t *frame, size_t len);
} got;

static bool receive(void *arg, const struct iovec *iov, unsigned count)
{
	if (got.full)
		return false;
	ck_assert_uint_eq(count, 1);
	ck_assert_uint_le(iov->iov_len, sizeof(got.frame));
	if (got.wanted && !got.wanted(iov->iov_base, iov->iov_len))
		return true;
	memcpy(got.frame, iov->iov_base, iov->iov_len);
	got.len = iov->iov_len;
	got.count++;
	if (got.waiting)
		loop_stop(loop);
	return true;
}

static const struct net_client client = { .receive = receive };

static void give_up(void *arg)
{
	loop_stop(loop);
}

/* From now on keep only such frames; libslirp answers some from within net_send(). */
static void expect_frame(bool (*wanted)(const uint8_t *frame, size_t len))
{
	got.wanted = wanted;
	got.count = 0;
}

static bool wait_frame(void)
{
	struct loop_timer *timer;

	if (got.count)
		return true;
	timer = loop_timer_new(loop, give_up, NULL);
	loop_timer_arm(timer, loop_now_ns() + 3000000000ull);
	got.waiting = true;
	loop_run(loop);
	got.waiting = false;
	loop_timer_free(timer);
	return got.count > 0;
}

static void send_frame(struct net *net, uint8_t *frame, size_t len)
{
	/* In two parts, as a guest may. */
	struct iovec iov[2] = { { frame, 10 }, { frame + 10, len - 10 } };

	ck_assert_int_eq(net_send(net, iov, 2), 0);
}

static void put16(uint8_t *p, unsigned v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static uint16_t checksum(const uint8_t *p, size_t len, uint32_t sum)
{
	for (size_t i = 0; i < len; i += 2)
		sum += (uint32_t)(p[i] << 8 | (i + 1 < len ? p[i + 1] : 0));
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

static size_t ip_frame(uint8_t *f, const uint8_t *dst_mac, uint8_t protocol, uint32_t src,
		       uint32_t dst, size_t payload)
{
	uint8_t *ip = f + 14;

	memcpy(f, dst_mac, 6);
	memcpy(f + 6, our_mac, 6);
	put16(f + 12, 0x0800);
	memset(ip, 0, 20);
	ip[0] = 0x45;
	put16(ip + 2, (unsigned)(20 + payload));
	ip[8] = 64;
	ip[9] = protocol;
	put16(ip + 12, src >> 16);
	put16(ip + 14, src & 0xffff);
	put16(ip + 16, dst >> 16);
	put16(ip + 18, dst & 0xffff);
	put16(ip + 10, checksum(ip, 20, 0));
	return 34 + payload;
}

/* RFC 2131: DISCOVER (1) or REQUEST (3). */
static size_t dhcp_frame(uint8_t *f, uint8_t kind)
{
	static const uint8_t everyone[6] = { 255, 255, 255, 255, 255, 255 };
	uint8_t *udp = f + 34, *d = udp + 8, *o = d + 240;
	size_t len;

	memset(f, 0, 600);
	put16(udp, 68);
	put16(udp + 2, 67);
	d[0] = d[1] = 1;
	d[2] = 6;
	memcpy(d + 4, "\x12\x34\x56\x78", 4);
	memcpy(d + 28, our_mac, 6);
	memcpy(d + 236, "\x63\x82\x53\x63", 4);
	*o++ = 53;
	*o++ = 1;
	*o++ = kind;
	if (kind == 3) {
		memcpy(o, "\x32\x04\x0a\x00\x02\x0f", 6);
		o += 6;
	}
	*o++ = 255;
	len = 300 + 8;
	put16(udp + 4, (unsigned)len);
	return ip_frame(f, everyone, 17, 0, 0xffffffff, len);
}

static bool is_dhcp(const uint8_t *f, size_t len)
{
	return len > 290 && f[12] == 8 && f[13] == 0 && f[23] == 17 && f[37] == 68;
}

static const uint8_t *dhcp_option(uint8_t code)
{
	const uint8_t *o = got.frame + 42 + 240, *end = got.frame + got.len;

	while (o + 2 < end && *o != 255 && *o != code)
		o += *o ? 2 + o[1] : 1;
	return o + 2 < end && *o == code ? o + 2 : NULL;
}

static void setup(void)
{
	memset(&got, 0, sizeof(got));
	loop = loop_new();
}

static void teardown(void)
{
	loop_free(loop);
}

static struct net *open_net(const struct net_forward *f, unsigned n)
{
	g_autoptr(GError) err = NULL;
	struct net *net = net_user_open(f, n, loop, &err);

	ck_assert_msg(net != NULL, "%s", err ? err->message : "no message");
	net_set_client(net, &client, NULL);
	return net;
}

START_TEST(guest_is_10_0_2_15_by_dhcp)
{
	struct net *net = open_net(NULL, 0);
	uint8_t frame[700];

	expect_frame(is_dhcp);
	send_frame(net, frame, dhcp_frame(frame, 1));
	ck_assert(wait_frame());
	ck_assert_uint_eq(*dhcp_option(53), 2); /* OFFER */
	ck_assert(memcmp(got.frame + 42 + 16, "\x0a\x00\x02\x0f", 4) == 0);
	expect_frame(is_dhcp);
	send_frame(net, frame, dhcp_frame(frame, 3));
	ck_assert(wait_frame());
	ck_assert_uint_eq(*dhcp_option(53), 5); /* ACK */
	ck_assert(memcmp(dhcp_option(6), "\x0a\x00\x02\x03", 4) == 0);
	ck_assert(memcmp(dhcp_option(3), "\x0a\x00\x02\x02", 4) == 0);
	net_close(net);
}
END_TEST

START_TEST(keeps_frames_for_a_full_card)
{
	struct net *net = open_net(NULL, 0);
	uint8_t frame[700];

	got.full = true;
	send_frame(net, frame, dhcp_frame(frame, 1));
	ck_assert(!got.count);
	got.full = false;
	got.wanted = is_dhcp;
	net_receive_ready(net);
	ck_assert_uint_eq(got.count, 1);
	ck_assert(is_dhcp(got.frame, got.len));
	net_close(net);
}
END_TEST

START_TEST(survives_garbage)
{
	struct net *net = open_net(NULL, 0);
	uint8_t frame[1600];

	srand(5);
	for (unsigned i = 0; i < 3000; i++) {
		size_t len = 11 + (size_t)rand() % 1500;

		for (size_t k = 0; k < len; k++)
			frame[k] = (uint8_t)rand();
		if (rand() & 1)
			ip_frame(frame, our_mac, (uint8_t)(rand() % 20), 0x0a00020f, 0x0a000202,
				 len > 34 ? len - 34 : 0);
		send_frame(net, frame, len);
	}
	net_close(net);
}
END_TEST

static int listen_on(int type, uint16_t *ret_port)
{
	struct sockaddr_in a = { .sin_family = AF_INET,
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(a);
	int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);

	ck_assert_int_eq(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	if (type == SOCK_STREAM)
		ck_assert_int_eq(listen(fd, 1), 0);
	getsockname(fd, (struct sockaddr *)&a, &len);
	*ret_port = ntohs(a.sin_port);
	return fd;
}

START_TEST(taken_port_is_a_sentence)
{
	static const int types[] = { SOCK_STREAM, SOCK_DGRAM };

	for (unsigned i = 0; i < 2; i++) {
		struct net_forward f = { .udp = i == 1, .guest_port = 22 };
		int fd = listen_on(types[i], &f.host_port);
		g_autoptr(GError) err = NULL;
		g_autofree char *want =
			g_strdup_printf("port %u on 127.0.0.1 is in use", f.host_port);

		ck_assert_ptr_null(net_user_open(&f, 1, loop, &err));
		ck_assert_msg(strstr(err->message, want), "%s", err->message);
		close(fd);
	}
}
END_TEST

static bool is_syn(const uint8_t *f, size_t len)
{
	return len >= 54 && f[12] == 8 && f[13] == 0 && f[23] == 6 && (f[47] & 0x12) == 2;
}

/* A connection to the forwarded port arrives at the guest as a SYN for the guest's port. */
START_TEST(forwarded_port_reaches_the_guest)
{
	struct net_forward f = { .guest_port = 2222 };
	struct sockaddr_in a = { .sin_family = AF_INET,
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	uint8_t frame[700];
	struct net *net;
	int fd;

	close(listen_on(SOCK_STREAM, &f.host_port));
	net = open_net(&f, 1);
	/* So the network learns where the guest is. */
	send_frame(net, frame, dhcp_frame(frame, 3));
	expect_frame(is_syn);
	a.sin_port = htons(f.host_port);
	fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	(void)!connect(fd, (struct sockaddr *)&a, sizeof(a));
	ck_assert(wait_frame());
	ck_assert_uint_eq(got.frame[36] << 8 | got.frame[37], 2222);
	close(fd);
	net_close(net);
}
END_TEST

START_TEST(missing_tap_is_a_sentence)
{
	g_autoptr(GError) err = NULL;

	ck_assert_ptr_null(net_tap_open("a-name-that-is-too-long", loop, &err));
	ck_assert_msg(strstr(err->message, "is no interface name"), "%s", err->message);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("net");
	TCase *t = tcase_create("user");
	SRunner *r = srunner_create(s);
	int failed;

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, 20);
	tcase_add_test(t, guest_is_10_0_2_15_by_dhcp);
	tcase_add_test(t, keeps_frames_for_a_full_card);
	tcase_add_test(t, survives_garbage);
	tcase_add_test(t, taken_port_is_a_sentence);
	tcase_add_test(t, forwarded_port_reaches_the_guest);
	tcase_add_test(t, missing_tap_is_a_sentence);
	suite_add_tcase(s, t);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

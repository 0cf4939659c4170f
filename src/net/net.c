// SPDX-License-Identifier: Apache-2.0
/* net.c - the face of a network backend. */
#include "net/net.h"

#include <string.h>

#include "net/net_int.h"

void net_close(struct net *net)
{
	if (net)
		net->ops->close(net);
}

void net_set_client(struct net *net, const struct net_client *client, void *arg)
{
	net->client = client;
	net->client_arg = arg;
}

int net_send(struct net *net, const struct iovec *iov, unsigned iov_count)
{
	return net->ops->send(net, iov, iov_count);
}

void net_receive_ready(struct net *net)
{
	if (net->ops->receive_ready)
		net->ops->receive_ready(net);
}

void net_set_offload(struct net *net, uint32_t offload)
{
	if (net->ops->set_offload)
		net->ops->set_offload(net, offload);
}

bool net_deliver(struct net *net, const struct iovec *iov, unsigned iov_count)
{
	if (!net->client || !net->client->receive)
		return true;
	return net->client->receive(net->client_arg, iov, iov_count);
}

size_t net_gather(void *buf, size_t size, const struct iovec *iov, unsigned iov_count)
{
	size_t len = 0;

	for (unsigned i = 0; i < iov_count; i++) {
		if (iov[i].iov_len > size - len)
			return 0;
		memcpy((char *)buf + len, iov[i].iov_base, iov[i].iov_len);
		len += iov[i].iov_len;
	}
	return len;
}

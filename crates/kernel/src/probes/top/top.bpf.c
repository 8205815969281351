// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Bytes and packets of each flow at each interface, of all protocols, forwarded packets among them.
 *
 * Hooks: tracepoints net_dev_start_xmit and net_dev_xmit (3.14), netif_receive_skb (2.6.37), iterator over UDP sockets (5.9).
 * Can miss: what bypasses the stack (XDP, AF_XDP, PACKET_QDISC_BYPASS, hardware that forwards). */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_tracing.h>
#include "abi.h"
#include "socket.bpf.h"
#include "observe.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86DD
#define ETH_P_8021Q 0x8100
#define ETH_P_8021AD 0x88A8
#define VLAN_HLEN 4
#define IFF_LOOPBACK 8
#define IP_OFFSET 0x1fff
#define IP6_OFFSET 0xfff8
#define NEXTHDR_HOP 0
#define NEXTHDR_ROUTING 43
#define NEXTHDR_FRAGMENT 44
#define NEXTHDR_DEST 60
#define EXTENSION_HEADERS 6
#define UDP_HLEN 8
#define MAX_LINK_HEADER 64
#define NESTED 4

/* Key: flow at an interface. Written by the programs, read by user space, never cleared: sums only grow. Full: the flow is
 * counted as evicted, and its packets at its interface. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 32768);
	__type(key, struct top_key);
	__type(value, struct top_flow);
} top_flows SEC(".maps");

/* Key: interface. What it is, and packets of flows without room. Full: its packets are not counted. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, struct top_interface_key);
	__type(value, struct top_interface);
} top_interfaces SEC(".maps");

/* A packet that was given to a driver, which may yet refuse it. */
struct pending {
	__u64 skb; /* 0: none */
	__u64 cookie;
	struct observe_owner owner;
	struct top_key key;
	struct top_sum sum;
	__u32 is_of_socket;
	__u32 pad;
};

/* Key: 0 to NESTED - 1. Drivers of virtual devices call those of others, hence several. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, NESTED);
	__type(key, __u32);
	__type(value, struct pending);
} top_pending SEC(".maps");

/* Where the headers of a packet are. */
struct place {
	const void *head; /* of the buffer */
	__u32 network;	  /* offset of the network header */
	__u32 end;	  /* of what lies in the buffer */
	__u32 transport;  /* offset of the transport header; 0: there is none, or it is in an earlier fragment */
	__u8 protocol;
	__u8 pad[3];
};

static __always_inline bool read_at(const struct place *at, __u32 offset, void *to, __u32 size)
{
	return offset + size <= at->end && !bpf_probe_read_kernel(to, size, at->head + offset);
}

static __always_inline void read_ipv4(struct place *at, bool is_sent, struct mark_key *key)
{
	struct iphdr ip;

	if (!read_at(at, at->network, &ip, sizeof(ip)))
		return;
	map_address(key->local_addr, is_sent ? ip.saddr : ip.daddr);
	map_address(key->remote_addr, is_sent ? ip.daddr : ip.saddr);
	at->protocol = ip.protocol;
	key->protocol = ip.protocol;
	if (!(ip.frag_off & bpf_htons(IP_OFFSET)))
		at->transport = at->network + ((__u32)(*(__u8 *)&ip & 15) << 2);
}

/* Some headers have their length in units of eight bytes, the first not counted. */
static __always_inline void skip_extensions(struct place *at, __u8 next, __u32 offset)
{
	__u8 header[4];

	for (int i = 0; i < EXTENSION_HEADERS; i++) {
		bool has_length = next == NEXTHDR_HOP || next == NEXTHDR_ROUTING || next == NEXTHDR_DEST;

		if (!has_length && next != NEXTHDR_FRAGMENT)
			break;
		if (!read_at(at, offset, header, sizeof(header)))
			return;
		if (next == NEXTHDR_FRAGMENT && (((__u32)header[2] << 8 | header[3]) & IP6_OFFSET)) {
			at->protocol = header[0];
			return;
		}
		offset += has_length ? ((__u32)header[1] + 1) << 3 : 8;
		next = header[0];
	}
	at->protocol = next;
	at->transport = offset;
}

static __always_inline void read_ipv6(struct place *at, bool is_sent, struct mark_key *key)
{
	struct ipv6hdr ip;

	if (!read_at(at, at->network, &ip, sizeof(ip)))
		return;
	copy_address(key->local_addr, is_sent ? &ip.saddr : &ip.daddr);
	copy_address(key->remote_addr, is_sent ? &ip.daddr : &ip.saddr);
	skip_extensions(at, ip.nexthdr, at->network + sizeof(ip));
	key->protocol = at->protocol;
}

static __always_inline bool has_ports(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP ||
	       protocol == IPPROTO_DCCP || protocol == IPPROTO_UDPLITE;
}

static __always_inline void read_flow(struct place *at, __be16 type, bool is_sent, struct mark_key *key)
{
	__be16 ports[2];

	if (type == bpf_htons(ETH_P_IP))
		read_ipv4(at, is_sent, key);
	else if (type == bpf_htons(ETH_P_IPV6))
		read_ipv6(at, is_sent, key);
	if (!at->transport || !has_ports(at->protocol) || !read_at(at, at->transport, ports, sizeof(ports)))
		return;
	key->local_port = ports[!is_sent];
	key->remote_port = ports[is_sent];
}

/* What each segment repeats, from the link header to the payload. */
static __always_inline __u32 header_length(const struct place *at, __u32 link)
{
	__u8 offset = 0;

	if (!at->transport)
		return 0;
	if (at->protocol == IPPROTO_UDP)
		return link + at->transport - at->network + UDP_HLEN;
	if (at->protocol != IPPROTO_TCP || !read_at(at, at->transport + 12, &offset, sizeof(offset)))
		return 0;
	return link + at->transport - at->network + (offset >> 4 << 2);
}

static __always_inline void measure(const struct sk_buff *skb, const struct place *at, __u32 link, __u32 length,
				    struct top_sum *sum)
{
	struct skb_shared_info *shared = (void *)skb->head + skb->end;
	__u32 size = BPF_CORE_READ(shared, gso_size), segments = BPF_CORE_READ(shared, gso_segs);
	__u32 headers = header_length(at, link);

	/* What others than the stack made may not say how many it will be. */
	if (!segments && size && link + length > headers)
		segments = (link + length - headers + size - 1) / size;
	if (!segments)
		segments = 1;
	sum->bytes = length;
	sum->link_bytes = link;
	sum->packets = 1;
	sum->segments = segments;
	sum->segment_bytes = (segments - 1) * headers + (skb->vlan_proto ? segments * VLAN_HLEN : 0);
}

static __always_inline bool is_vlan(__be16 type)
{
	return type == bpf_htons(ETH_P_8021Q) || type == bpf_htons(ETH_P_8021AD);
}

/* The type behind a VLAN tag, which is in the packet where no hardware takes it off. */
static __always_inline __be16 type_behind_vlan(const struct place *at, __u32 offset, __be16 type)
{
	__be16 tag[2] = {};

	return is_vlan(type) && read_at(at, offset, tag, sizeof(tag)) ? tag[1] : type;
}

/* False: not wanted. `key` and `sum` are zero. */
static __always_inline bool read_packet(const struct sk_buff *skb, const struct net_device *dev, bool is_sent,
					struct top_key *key, struct top_sum *sum)
{
	struct place at = {};
	__u32 data = (__u64)skb->data - (__u64)skb->head, link;
	__be16 type = skb->protocol;

	key->netns = dev->nd_net.net->ns.inum;
	if (!is_wanted_netns(key->netns))
		return false;
	key->interface = dev->ifindex;
	at.head = (void *)(__u64)skb->head;
	at.end = skb->tail;
	if (is_sent) {
		at.network = skb->network_header;
		link = at.network - data;
		type = type_behind_vlan(&at, at.network - VLAN_HLEN, type);
	} else {
		link = data - skb->mac_header;
		type = type_behind_vlan(&at, data, type);
		at.network = data + (is_vlan(skb->protocol) ? VLAN_HLEN : 0);
	}
	if (link > MAX_LINK_HEADER)
		link = 0;
	read_flow(&at, type, is_sent, &key->key);
	measure(skb, &at, link, is_sent ? skb->len - link : skb->len, sum);
	return is_wanted_flow(&key->key);
}

static __always_inline void add(struct top_sum *to, const struct top_sum *sum)
{
	__sync_fetch_and_add(&to->bytes, sum->bytes);
	__sync_fetch_and_add(&to->packets, sum->packets);
	__sync_fetch_and_add(&to->segments, sum->segments);
	if (sum->link_bytes)
		__sync_fetch_and_add(&to->link_bytes, sum->link_bytes);
	if (sum->segment_bytes)
		__sync_fetch_and_add(&to->segment_bytes, sum->segment_bytes);
}

static __always_inline void describe(const struct net_device *dev, struct top_interface *out)
{
	struct rtnl_link_ops *ops = (void *)BPF_CORE_READ(dev, rtnl_link_ops);
	struct device *parent = BPF_CORE_READ(dev, dev.parent);

	bpf_core_read_str(out->name, sizeof(out->name), &dev->name);
	if (ops)
		bpf_probe_read_kernel_str(out->kind, sizeof(out->kind), BPF_CORE_READ(ops, kind));
	if (BPF_CORE_READ(dev, flags) & IFF_LOOPBACK)
		out->flags |= TOP_LOOPBACK;
	if (!parent)
		return;
	out->flags |= TOP_PHYSICAL;
	bpf_probe_read_kernel_str(out->driver, sizeof(out->driver), BPF_CORE_READ(parent, driver, name));
}

static __always_inline struct top_interface *make_interface(const struct top_key *of, const struct net_device *dev)
{
	struct top_interface_key key = {.netns = of->netns, .interface = of->interface};
	struct top_interface fresh = {}, *found = bpf_map_lookup_elem(&top_interfaces, &key);

	if (found)
		return found;
	describe(dev, &fresh);
	bpf_map_update_elem(&top_interfaces, &key, &fresh, BPF_NOEXIST);
	return bpf_map_lookup_elem(&top_interfaces, &key);
}

/* NULL: no room. */
static __always_inline struct top_flow *make_flow(const struct top_key *key, const struct net_device *dev)
{
	struct top_flow fresh = {}, *found;

	make_interface(key, dev);
	fresh.word = word_of_flow(&key->key);
	if (!bpf_map_update_elem(&top_flows, key, &fresh, BPF_NOEXIST))
		count(OBSERVE_FLOWS);
	found = bpf_map_lookup_elem(&top_flows, key);
	if (!found)
		count(OBSERVE_EVICTED);
	return found;
}

static __always_inline void set_sender(struct top_flow *flow, const struct pending *sent)
{
	bool is_known = flow->is_of_socket && flow->owner.pid == sent->owner.pid;

	if (sent->is_of_socket && (!is_known || flow->cookie != sent->cookie)) {
		flow->owner = sent->owner;
		flow->cookie = sent->cookie;
		flow->is_of_socket = 1;
	}
	if (!flow->word)
		flow->word = word_of_flow(&sent->key.key);
}

static __always_inline void count_sent(const struct pending *sent, const struct net_device *dev)
{
	struct top_flow *flow = bpf_map_lookup_elem(&top_flows, &sent->key);
	struct top_interface *other;

	if (!flow)
		flow = make_flow(&sent->key, dev);
	if (flow) {
		set_sender(flow, sent);
		add(&flow->sent, &sent->sum);
		return;
	}
	other = make_interface(&sent->key, dev);
	if (other)
		add(&other->sent, &sent->sum);
}

static __always_inline void count_received(const struct top_key *key, const struct top_sum *sum,
					   const struct net_device *dev)
{
	struct top_flow *flow = bpf_map_lookup_elem(&top_flows, key);
	struct top_interface *other;

	if (!flow)
		flow = make_flow(key, dev);
	if (flow) {
		add(&flow->received, sum);
		return;
	}
	other = make_interface(key, dev);
	if (other)
		add(&other->received, sum);
}

/* A request or a socket that only waits has no owner. */
static __always_inline void read_sender(const struct sk_buff *skb, struct pending *out)
{
	struct sock *sk = skb->sk;
	struct observe_socket *socket;

	if (!sk || !is_full_socket(sk))
		return;
	if (sk->__sk_common.skc_family != AF_INET && sk->__sk_common.skc_family != AF_INET6)
		return;
	socket = find_socket(sk);
	if (socket)
		out->owner = socket->owner;
	if (!out->owner.cgroup)
		out->owner.cgroup = cgroup_of(sk);
	out->owner.user = sk->sk_uid.val;
	/* The helper that makes one does not take a socket that was found in a packet. */
	out->cookie = sk->__sk_common.skc_cookie.counter;
	out->is_of_socket = 1;
}

static __always_inline struct pending *pending_at(__u32 index)
{
	return bpf_map_lookup_elem(&top_pending, &index);
}

/* The first that is free. All in use: some were never told to have ended, and the last is taken. */
static __always_inline struct pending *free_pending(void)
{
	struct pending *found = NULL;

	for (__u32 i = 0; i < NESTED; i++) {
		found = pending_at(i);
		if (!found || !found->skb)
			break;
	}
	return found;
}

/* A device that stands on another one (bond, VLAN, bridge) hands the same packet on to it, which is sent first. */
static __always_inline bool is_pending(const struct pending *sent, const struct sk_buff *skb,
				       const struct net_device *dev)
{
	return sent->skb == (__u64)skb && sent->key.interface == (__u32)dev->ifindex &&
	       sent->key.netns == dev->nd_net.net->ns.inum;
}

SEC("tp_btf/net_dev_xmit")
int BPF_PROG(flowtag_sent, struct sk_buff *skb, int rc, struct net_device *dev, unsigned int len)
{
	struct pending *sent = NULL;

	for (__u32 i = 0; i < NESTED; i++) {
		sent = pending_at(i);
		if (!sent || is_pending(sent, skb, dev))
			break;
	}
	if (!sent || !is_pending(sent, skb, dev))
		return 0;
	sent->skb = 0;
	if (!rc)
		count_sent(sent, dev);
	return 0;
}

/* The driver's answer comes only after it may have freed the packet. Below the end, as it is attached in this order: what
 * begins before the end is watched would wait for it for ever. */
SEC("tp_btf/net_dev_start_xmit")
int BPF_PROG(flowtag_sends, const struct sk_buff *skb, const struct net_device *dev)
{
	struct pending *sent = free_pending();

	if (!sent)
		return 0;
	__builtin_memset(sent, 0, sizeof(*sent));
	if (!read_packet(skb, dev, true, &sent->key, &sent->sum))
		return 0;
	read_sender(skb, sent);
	sent->skb = (__u64)skb;
	return 0;
}

SEC("tp_btf/netif_receive_skb")
int BPF_PROG(flowtag_received, struct sk_buff *skb)
{
	struct top_key key __attribute__((aligned(8))) = {};
	struct top_sum sum = {};

	if (read_packet(skb, skb->dev, false, &key, &sum))
		count_received(&key, &sum, skb->dev);
	return 0;
}

/* Key: local end of a UDP socket. Written by the iterator, read by user space; kept when the socket is gone, as its flows
 * are. Full: who was not seen for longest is forgotten. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct top_receiver_key);
	__type(value, struct top_receiver);
} top_receivers SEC(".maps");

/* Whose datagrams are that nobody answers. */
SEC("iter/udp")
int flowtag_receivers(struct bpf_iter__udp *ctx)
{
	struct udp_sock *udp = (void *)ctx->udp_sk;
	struct top_receiver_key key = {};
	struct top_receiver receiver = {};
	struct observe_socket *socket;
	struct sock *sk;

	if (!udp)
		return 0;
	sk = (struct sock *)udp;
	socket = find_socket(sk);
	if (!socket)
		return 0;
	key_of_inet(&udp->inet, sk->sk_protocol, &key.key);
	key.netns = netns_of(sk);
	receiver.owner = socket->owner;
	receiver.owner.user = sk->sk_uid.val;
	receiver.cookie = sk->__sk_common.skc_cookie.counter;
	bpf_map_update_elem(&top_receivers, &key, &receiver, BPF_ANY);
	return 0;
}

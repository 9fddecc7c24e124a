package conformance

import (
	"context"
	"flag"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
)

var addresses = flag.String("addresses", "", "range whose addresses Services of type LoadBalancer are given, as by a load balancer; empty for none")

// Gives every Service of type LoadBalancer an address of its own until the test ends. On the cluster of run.sh nothing else does: kube-proxy
// serves what it finds in their status, on every node, and the suite has a route to one of them.
func giveAddresses(t *testing.T, s *suite.ConformanceTestSuite) {
	if *addresses == "" {
		return
	}
	within, err := netip.ParsePrefix(*addresses)
	require.NoError(t, err)
	giver := &giver{s: s, within: within.Masked(), given: map[types.UID]netip.Addr{}}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			if err := giver.follow(ctx); err != nil && ctx.Err() == nil {
				fmt.Printf("giving Services their addresses: %v\n", err)
				time.Sleep(pause)
			}
		}
	}()
	t.Cleanup(func() {
		stop()
		<-done
	})
}

type giver struct {
	s      *suite.ConformanceTestSuite
	within netip.Prefix
	given  map[types.UID]netip.Addr
}

// Looks at all Services, then at those that change, until the watch ends.
func (g *giver) follow(ctx context.Context) error {
	services := g.s.Clientset.CoreV1().Services(metav1.NamespaceAll)
	listed, err := services.List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, service := range listed.Items {
		g.keep(&service)
	}
	for _, service := range listed.Items {
		if err := g.give(ctx, &service); err != nil {
			return err
		}
	}
	watched, err := services.Watch(ctx, metav1.ListOptions{ResourceVersion: listed.ResourceVersion})
	if err != nil {
		return err
	}
	defer watched.Stop()
	for event := range watched.ResultChan() {
		service, ok := event.Object.(*corev1.Service)
		switch {
		case !ok:
			return fmt.Errorf("the watch on Services ended: %v", event.Object)
		case event.Type == watch.Deleted:
			delete(g.given, service.UID)
		default:
			g.keep(service)
			if err := g.give(ctx, service); err != nil {
				return err
			}
		}
	}
	return nil
}

// Remembers an address that a Service has, be it from an earlier run.
func (g *giver) keep(service *corev1.Service) {
	for _, ingress := range service.Status.LoadBalancer.Ingress {
		if address, err := netip.ParseAddr(ingress.IP); err == nil && g.within.Contains(address) {
			g.given[service.UID] = address
		}
	}
}

func (g *giver) give(ctx context.Context, service *corev1.Service) error {
	if service.Spec.Type != corev1.ServiceTypeLoadBalancer || len(service.Status.LoadBalancer.Ingress) > 0 {
		return nil
	}
	address, known := g.given[service.UID]
	if !known {
		var err error
		if address, err = g.free(); err != nil {
			return err
		}
	}
	status := fmt.Sprintf(`{"status": {"loadBalancer": {"ingress": [{"ip": %q}]}}}`, address)
	services := g.s.Clientset.CoreV1().Services(service.Namespace)
	_, err := services.Patch(ctx, service.Name, types.MergePatchType, []byte(status), metav1.PatchOptions{}, "status")
	if err != nil {
		// It is gone, or it changes again.
		fmt.Printf("giving %s/%s the address %s: %v\n", service.Namespace, service.Name, address, err)
		return nil
	}
	g.given[service.UID] = address
	return nil
}

// The first address of the range that no Service has, its own left out.
func (g *giver) free() (netip.Addr, error) {
	taken := map[netip.Addr]bool{}
	for _, address := range g.given {
		taken[address] = true
	}
	for address := g.within.Addr().Next(); g.within.Contains(address); address = address.Next() {
		if !taken[address] {
			return address, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("%s has no address left", g.within)
}

func TestEachServiceHasAnAddressOfItsOwn(t *testing.T) {
	g := &giver{within: netip.MustParsePrefix("10.97.0.0/30"), given: map[types.UID]netip.Addr{}}
	for _, wanted := range []string{"10.97.0.1", "10.97.0.2", "10.97.0.3"} {
		address, err := g.free()
		require.NoError(t, err)
		require.Equal(t, wanted, address.String())
		g.given[types.UID(wanted)] = address
	}
	_, err := g.free()
	require.Error(t, err)
	delete(g.given, "10.97.0.2")
	address, err := g.free()
	require.NoError(t, err)
	require.Equal(t, "10.97.0.2", address.String())
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{UID: "kept"}}
	service.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "10.97.0.2"}}
	g.keep(service)
	_, err = g.free()
	require.Error(t, err)
}

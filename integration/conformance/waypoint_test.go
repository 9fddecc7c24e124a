package conformance

import (
	"context"
	"flag"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
)

var waypointClass = flag.String("waypoint-class", "istio-waypoint", "GatewayClass of the waypoint; empty for none, with which routes must fail")

const (
	name = "waypoint"
	// Asked for by whoever makes a namespace use one.
	useLabel = "istio.io/use-waypoint"
	// What a Service says once it goes through one.
	bound = "istio.io/WaypointBound"

	patience = 3 * time.Minute
	pause    = 200 * time.Millisecond
)

// Makes a waypoint for the services of the namespace that the suite routes in, and waits until all of them go through it.
func useWaypoint(t *testing.T, c client.Client) {
	if *waypointClass == "" {
		return
	}
	ctx := context.Background()
	gateway := &gatewayv1.Gateway{
		ObjectMeta: metav1.ObjectMeta{Namespace: suite.MeshNamespace, Name: name},
		Spec: gatewayv1.GatewaySpec{
			GatewayClassName: gatewayv1.ObjectName(*waypointClass),
			Listeners:        []gatewayv1.Listener{{Name: "mesh", Port: 15008, Protocol: "HBONE"}},
		},
	}
	if *waypointEnvoy != "" {
		gateway.Spec.Infrastructure = &gatewayv1.GatewayInfrastructure{ParametersRef: withoutPods(t, c)}
	}
	require.NoError(t, c.Create(ctx, gateway))
	if *waypointEnvoy != "" {
		runEnvoy(t, c)
	}
	until(t, "the waypoint is programmed", func() (bool, string) {
		err := c.Get(ctx, client.ObjectKeyFromObject(gateway), gateway)
		programmed := meta.IsStatusConditionTrue(gateway.Status.Conditions, string(gatewayv1.GatewayConditionProgrammed))
		return err == nil && programmed, fmt.Sprint(err, gateway.Status.Conditions)
	})

	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: suite.MeshNamespace}}
	label := fmt.Sprintf(`{"metadata": {"labels": {%q: %q}}}`, useLabel, name)
	require.NoError(t, c.Patch(ctx, namespace, client.RawPatch("application/merge-patch+json", []byte(label))))
	until(t, "the services go through the waypoint", func() (bool, string) {
		services := &corev1.ServiceList{}
		if err := c.List(ctx, services, client.InNamespace(suite.MeshNamespace)); err != nil {
			return false, err.Error()
		}
		for _, service := range services.Items {
			if service.Name != name && !meta.IsStatusConditionTrue(service.Status.Conditions, bound) {
				return false, fmt.Sprint(service.Name, service.Status.Conditions)
			}
		}
		return len(services.Items) > 1, "the services of the suite are not there"
	})
}

func until(t *testing.T, what string, holds func() (bool, string)) {
	last := ""
	ask := func(context.Context) (done bool, _ error) {
		done, last = holds()
		return done, nil
	}
	err := wait.PollUntilContextTimeout(context.Background(), pause, patience, true, ask)
	require.NoErrorf(t, err, "%s: not after %v; %s", what, patience, last)
}

package conformance

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
)

var (
	changes       = flag.Int("changes", 200, "how often TestChanges changes a route")
	changesLimit  = flag.Duration("changes-limit", 500*time.Millisecond, "how soon 99 of 100 changes must be seen")
	observerImage = flag.String("observer-image", "ambit.local/busybox:1", "image of the pod that asks in TestChanges: a shell and wget")
)

// Asks again and again, and writes when, in seconds since the machine started, and what the route put into the answer.
const observe = `while :; do said=$(timeout 5 wget -S -q -O /dev/null http://echo/ 2>&1 | grep -i x-change)
echo "$(cut -d' ' -f1 /proc/uptime) $said"; sleep 0.01; done`

// TestChanges changes a route many times and measures how long each change takes from the request to the API server to the first answer that
// shows it, in a pod: API server, istiod-lite, waypoint. The pods run on the machine that this runs on, since both read its clock.
func TestChanges(t *testing.T) {
	s := onMesh(t)
	ctx := context.Background()
	route := changing()
	observer := observing()
	for _, object := range []client.Object{route, observer} {
		require.NoError(t, s.Client.Create(ctx, object))
		t.Cleanup(func() { _ = s.Client.Delete(context.Background(), object, client.GracePeriodSeconds(0)) })
	}
	until(t, "the first change is seen", func() (bool, string) {
		seen, err := observed(ctx, s)
		_, found := seen[0]
		return found, fmt.Sprint(err, len(seen))
	})

	asked := make([]float64, *changes+1)
	for change := 1; change <= *changes; change++ {
		// Not in step with anything.
		time.Sleep(time.Duration(400+rand.IntN(400)) * time.Millisecond)
		patch := fmt.Sprintf(`[{"op": "replace", "path": "/spec/rules/0/filters/0/responseHeaderModifier/set/0/value", "value": "%d"}]`, change)
		asked[change] = uptime(t)
		require.NoError(t, s.Client.Patch(ctx, route, client.RawPatch("application/json-patch+json", []byte(patch))))
	}
	until(t, "the last change is seen", func() (bool, string) {
		seen, err := observed(ctx, s)
		_, found := seen[*changes]
		return found, fmt.Sprint(err, len(seen))
	})

	seen, err := observed(ctx, s)
	require.NoError(t, err)
	var took []float64
	for change := 1; change <= *changes; change++ {
		at, found := seen[change]
		require.True(t, found, "change %d was never seen", change)
		took = append(took, 1000*(at-asked[change]))
	}
	slices.Sort(took)
	of := func(share float64) float64 { return took[int(share*float64(len(took)-1))] }
	fmt.Fprintf(os.Stderr, "%d changes of a route were seen after, in ms: p50 %.0f, p90 %.0f, p99 %.0f, longest %.0f\n",
		len(took), of(0.5), of(0.9), of(0.99), took[len(took)-1])
	require.LessOrEqual(t, of(0.99), float64(changesLimit.Milliseconds()), "milliseconds until 99 of 100 changes are seen")
}

func changing() *gatewayv1.HTTPRoute {
	core, service, port := gatewayv1.Group(""), gatewayv1.Kind("Service"), gatewayv1.PortNumber(80)
	set := &gatewayv1.HTTPHeaderFilter{Set: []gatewayv1.HTTPHeader{{Name: "x-change", Value: "0"}}}
	backend := gatewayv1.BackendObjectReference{Name: "echo-v1", Port: &port}
	return &gatewayv1.HTTPRoute{
		ObjectMeta: metav1.ObjectMeta{Namespace: suite.MeshNamespace, Name: "changing"},
		Spec: gatewayv1.HTTPRouteSpec{
			CommonRouteSpec: gatewayv1.CommonRouteSpec{
				ParentRefs: []gatewayv1.ParentReference{{Group: &core, Kind: &service, Name: "echo", Port: &port}},
			},
			Rules: []gatewayv1.HTTPRouteRule{{
				Filters:     []gatewayv1.HTTPRouteFilter{{Type: gatewayv1.HTTPRouteFilterResponseHeaderModifier, ResponseHeaderModifier: set}},
				BackendRefs: []gatewayv1.HTTPBackendRef{{BackendRef: gatewayv1.BackendRef{BackendObjectReference: backend}}},
			}},
		},
	}
}

func observing() *corev1.Pod {
	grace := int64(0)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: suite.MeshNamespace, Name: "observer"},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: &grace,
			Containers: []corev1.Container{{
				Name: "observer", Image: *observerImage, ImagePullPolicy: corev1.PullIfNotPresent, Command: []string{"/bin/sh", "-c", observe},
			}},
		},
	}
}

// When each change was first seen, in seconds since the machine started.
func observed(ctx context.Context, s *suite.ConformanceTestSuite) (map[int]float64, error) {
	log, err := s.Clientset.CoreV1().Pods(suite.MeshNamespace).GetLogs("observer", &corev1.PodLogOptions{}).Stream(ctx)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	seen := map[int]float64{}
	lines := bufio.NewScanner(log)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) < 2 {
			continue
		}
		at, wrong := strconv.ParseFloat(words[0], 64)
		change, wrongToo := strconv.Atoi(words[len(words)-1])
		if _, found := seen[change]; wrong == nil && wrongToo == nil && !found {
			seen[change] = at
		}
	}
	return seen, lines.Err()
}

func uptime(t *testing.T) float64 {
	text, err := os.ReadFile("/proc/uptime")
	require.NoError(t, err)
	seconds, err := strconv.ParseFloat(strings.Fields(string(text))[0], 64)
	require.NoError(t, err)
	return seconds
}

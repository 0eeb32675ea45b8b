package watcher

import (
	"fmt"
	"regexp"
	"strconv"
	"time"

	"nfproxy/nft"
	"nfproxy/render"
)

// The annotations of Services that limit new connections.
const (
	annotationRate       = "nfproxy.io/max-connection-rate"
	annotationClientRate = "nfproxy.io/max-connection-rate-per-client"
	annotationOverLimit  = "nfproxy.io/over-limit"
)

// reduceLimits returns the limits in the annotations of a Service. An invalid one is no limit.
func reduceLimits(annotations map[string]string, problems problemList) render.Limits {
	limits := render.Limits{
		Rate:       reduceRate(annotations, annotationRate, problems),
		ClientRate: reduceRate(annotations, annotationClientRate, problems),
	}
	choice, field, ok := annotated(annotations, annotationOverLimit)
	limited := limits.Rate != nft.Limit{} || limits.ClientRate != nft.Limit{}
	switch {
	case !ok:
	case choice != "refuse" && choice != "drop":
		problems.add(field, fmt.Sprintf("%s is neither refuse nor drop; connections over the limit are refused", quoted(choice)))
	case !limited:
		problems.add(field, fmt.Sprintf("%s has no effect without a limit", quoted(choice)))
	default:
		limits.Drop = choice == "drop"
	}
	return limits
}

// rateFormat is the form of a limit: the number of connections, the period and, if it is not the default, the burst.
var rateFormat = regexp.MustCompile(`^([0-9]+)/(s|m|h)(?: burst ([0-9]+))?$`)

// ratePeriods are the periods of limits.
var ratePeriods = map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour}

// reduceRate returns the limit in an annotation, the zero Limit if there is none or it is invalid.
func reduceRate(annotations map[string]string, name string, problems problemList) nft.Limit {
	text, field, ok := annotated(annotations, name)
	if !ok {
		return nft.Limit{}
	}
	parts := rateFormat.FindStringSubmatch(text)
	if parts == nil {
		problems.add(field, fmt.Sprintf("%s is not a rate such as 100/s, 30/m or 100/s burst 20; connections are not limited", quoted(text)))
		return nft.Limit{}
	}
	packets, err := strconv.ParseUint(parts[1], 10, 64)
	if err != nil || packets < 1 || packets > render.MaxConnectionRate {
		problems.add(field, fmt.Sprintf("%s is not a rate of 1 to %d; connections are not limited", quoted(text), render.MaxConnectionRate))
		return nft.Limit{}
	}
	limit := nft.Limit{Packets: packets, Per: ratePeriods[parts[2]]}
	limit.Burst = render.DefaultBurst(limit.Packets, limit.Per)
	if parts[3] == "" {
		return limit
	}
	burst, err := strconv.ParseUint(parts[3], 10, 32)
	if err != nil || burst < 1 || burst > render.MaxConnectionRate {
		problems.add(field, fmt.Sprintf("%s has no burst of 1 to %d; the burst is %d", quoted(text), render.MaxConnectionRate, limit.Burst))
		return limit
	}
	limit.Burst = uint32(burst)
	return limit
}
